"""Where a graph stands among others, and what happens to it: its owner, version, journal and dirty nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from graphopt.ir.journal import Journal, Undo, journalled
from graphopt.ir.node import Node
from graphopt.ir.nodelist import NodeList
from graphopt.ir.signature import ModelInfo

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph


def _snapshot(model: ModelInfo) -> dict[str, Any]:
    """What a model's description says now. What its dicts hold is never changed in place."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(model).items()}


class Scope(NodeList):
    """The half of `Graph` that keeps track of edits. The outermost graph keeps track for all bodies inside it."""

    if TYPE_CHECKING:
        model: ModelInfo
    else:
        model = journalled("_model")

    def __init__(self) -> None:
        super().__init__()
        self.owner: Node | None = None
        self._model = ModelInfo()
        self._version = 0
        self._dirty: dict[Node, None] = {}
        self._journal: Journal | None = None

    @property
    def root(self) -> Graph:
        """The outermost graph around this one."""
        graph: Scope = self
        while graph.owner is not None and graph.owner.graph is not None:
            graph = graph.owner.graph
        return cast("Graph", graph)

    @property
    def version(self) -> int:
        """A number that grows with every edit anywhere in the outermost graph."""
        return self.root._version

    # -- edits: journal, versions, dirty nodes

    @property
    def _keeper(self) -> Graph:
        """The graph whose journal records edits of this one: the root, also while a body's owner is erased."""
        graph: Scope = self
        while graph.owner is not None and graph.owner._home is not None:
            graph = graph.owner._home
        return cast("Graph", graph)

    def _changed(self, undo: Undo) -> None:
        self._keeper._log(undo)

    def _log(self, undo: Undo) -> None:
        self._version += 1
        if self._journal is not None:
            self._journal.record(undo)

    def _mark(self, user: NodeList | Node) -> None:
        """Notes that the types of what `user` produces may have changed."""
        node = user.owner if isinstance(user, Scope) else user
        if not isinstance(node, Node) or node in self._dirty:
            return
        journal = self._journal
        if journal is not None:
            if not journal.is_active:
                return
            journal.record_mark(lambda: self._dirty.pop(node, None))
        self._dirty[node] = None

    def _unmark(self, node: Node) -> None:
        if node not in self._dirty:
            return
        del self._dirty[node]
        if self._journal is not None:
            self._journal.record_mark(lambda: self._dirty.setdefault(node))

    def _take_marks_of(self, body: Graph) -> None:
        """Takes over the dirty nodes of a graph that has just become a body inside this one."""
        marks, body._dirty = body._dirty, {}
        for node in marks:
            self._mark(node)

    def take_dirty(self) -> list[Node]:
        """The nodes whose output types may be out of date; the list is handed over and starts anew."""
        old, self._dirty = self._dirty, {}
        if self._journal is not None:
            self._journal.record_mark(lambda: setattr(self, "_dirty", old))
        return [node for node in old if node.graph is not None and node.graph.root is self]

    @contextmanager
    def transaction(self) -> Iterator[Journal]:
        """Records every edit; an exception inside the block undoes them all, as does ``journal.rollback()``.

        Content, order, names and metadata come back as they were; only the order of `Value.uses` may differ.
        Transactions nest: an inner one that ends well joins the outer one.
        """
        root = self.root
        outer, model, fields = root._journal, root.model, _snapshot(root.model)

        def undone() -> None:
            vars(model).update(fields)
            # What was computed for a version inside the transaction must not be taken for this one's.
            root._version += 1

        journal = root._journal = Journal(undone)
        try:
            yield journal
        except BaseException:  # also an interrupt must not leave half of the edits
            journal.rollback()
            raise
        finally:
            root._journal = outer
        if outer is not None:
            outer.extend(journal)
