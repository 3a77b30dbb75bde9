"""The edit journal: every primitive edit of a graph leaves a function that undoes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Undo: TypeAlias = Callable[[], None]


class Journal:
    """The undo functions of the edits made in one transaction, oldest first."""

    __slots__ = ("_active", "_entries")

    def __init__(self) -> None:
        self._entries: list[Undo] = []
        self._active = True

    def record(self, undo: Undo) -> None:
        """Notes how to undo an edit; edits made while rolling back are not noted."""
        if self._active:
            self._entries.append(undo)

    def extend(self, inner: Journal) -> None:
        """Takes over the entries of a transaction nested in this one."""
        if self._active:
            self._entries.extend(inner._entries)

    def rollback(self) -> None:
        """Undoes all recorded edits, newest first."""
        self._active = False
        while self._entries:
            self._entries.pop()()
        self._active = True

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_empty(self) -> bool:
        """True when the transaction has changed nothing."""
        return not self._entries
