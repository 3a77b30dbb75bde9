"""The edit journal: every primitive edit of a graph leaves a function that undoes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.ir.node import Node
    from graphopt.ir.value import Value

Undo: TypeAlias = Callable[[], None]


class Journal:
    """The undo functions of the edits made in one transaction, oldest first.

    Args:
        on_rollback: called once all edits are undone.
    """

    __slots__ = ("_active", "_entries", "_marks", "_on_rollback")

    def __init__(self, on_rollback: Undo = lambda: None) -> None:
        self._entries: list[Undo] = []
        # What shape propagation has to look at is no content of the graph, so it does not count as an edit.
        self._marks: list[Undo] = []
        self._active = True
        self._on_rollback = on_rollback

    @property
    def is_active(self) -> bool:
        """False while rolling back: edits made then are the undoing of others."""
        return self._active

    def record(self, undo: Undo) -> None:
        """Notes how to undo an edit; edits made while rolling back are not noted."""
        if self._active:
            self._entries.append(undo)

    def record_mark(self, undo: Undo) -> None:
        """Notes how to undo a change of the list of dirty nodes."""
        if self._active:
            self._marks.append(undo)

    def extend(self, inner: Journal) -> None:
        """Takes over the entries of a transaction nested in this one."""
        if self._active:
            self._entries.extend(inner._entries)
            self._marks.extend(inner._marks)

    def rollback(self) -> None:
        """Undoes all recorded edits, newest first."""
        self._active = False
        try:
            while self._entries:
                self._entries.pop()()
            while self._marks:
                self._marks.pop()()
            self._on_rollback()
        finally:
            self._active = True

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_empty(self) -> bool:
        """True when the transaction has changed nothing."""
        return not self._entries


def journalled(slot: str) -> Any:
    """A property over `slot` whose assignments are recorded in the journal of the owner's graph."""

    def assign(owner: Any, new: Any) -> None:
        old = getattr(owner, slot)
        if new is old or (isinstance(new, str) and new == old):
            return
        keeper = owner._keeper
        if keeper is not None:
            keeper._log(lambda: setattr(owner, slot, old))
        setattr(owner, slot, new)

    # attrgetter keeps reading as fast as a plain attribute.
    return property(attrgetter(slot), assign)


class Metadata(dict[str, str]):
    """The ``metadata_props`` of a graph, node or value: a dict whose changes are journalled."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Graph | Node | Value, items: Mapping[str, str] | None = None) -> None:
        super().__init__(items or {})
        self._owner = owner

    def _note(self) -> None:
        keeper = self._owner._keeper
        if keeper is None:
            return
        old = dict(self)

        def undo() -> None:
            dict.clear(self)
            dict.update(self, old)

        keeper._log(undo)

    def __setitem__(self, key: str, value: str) -> None:
        self._note()
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._note()
        super().__delitem__(key)

    def clear(self) -> None:
        self._note()
        super().clear()

    def update(self, *args: Any, **items: str) -> None:
        self._note()
        super().update(*args, **items)

    def __ior__(self, other: Any) -> Metadata:  # type: ignore[misc, override]  # dict's overloads are narrower
        self.update(other)
        return self

    def pop(self, *args: Any) -> Any:
        self._note()
        return super().pop(*args)

    def popitem(self) -> tuple[str, str]:
        self._note()
        return super().popitem()

    def setdefault(self, key: str, default: str = "") -> str:
        self._note()
        return super().setdefault(key, default)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles are plain dicts: they belong to no graph.
        return dict, (dict(self),)


def metadata_property() -> Any:
    """The property ``metadata`` over the slot ``_metadata``, whose dict is made when it is first asked for."""

    def read(owner: Any) -> Metadata:
        if owner._metadata is None:
            owner._metadata = Metadata(owner)
        found: Metadata = owner._metadata
        return found

    def assign(owner: Any, new: Mapping[str, str]) -> None:
        old = owner._metadata
        if not old and not new:
            return
        keeper = owner._keeper
        if keeper is not None:
            keeper._log(lambda: setattr(owner, "_metadata", old))
        owner._metadata = Metadata(owner, new)

    return property(read, assign)
