"""The nodes of a graph as a linked list with order numbers, which may be edited while it is walked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.ir.node import Node

# Distance between the order numbers of neighbours: room for 48 halvings before a relabelling.
_GAP = 1 << 48
# How full a range of 2**i order numbers may be after a relabelling: (2 / 1.3)**i. See `NodeList._relabel`.
_CAPACITY = 2 / 1.3


class _Cursor:
    """Where a walk stands: the node visited last, or ``None`` before the first."""

    __slots__ = ("at", "forward")

    def __init__(self, forward: bool) -> None:
        self.at: Node | None = None
        self.forward = forward


class NodeList:
    """A doubly linked list through the nodes themselves.

    Linking, unlinking and comparing positions take O(1), amortised O(log n) where many nodes go in at one spot. A walk
    survives any edit: it goes on with what follows its position at that moment, so nodes linked in ahead of it are
    visited, and nodes taken out or moved behind it are not.
    """

    def __init__(self) -> None:
        self._first: Node | None = None
        self._last: Node | None = None
        self._length = 0
        self._cursors: list[_Cursor] = []

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes of this graph in topological order. Inserting and erasing while iterating is safe."""
        return self._walk(forward=True)

    def __iter__(self) -> Iterator[Node]:
        return self._walk(forward=True)

    def __reversed__(self) -> Iterator[Node]:
        return self._walk(forward=False)

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True

    def _walk(self, forward: bool) -> Iterator[Node]:
        cursor = _Cursor(forward)
        self._cursors.append(cursor)
        try:
            while True:
                at = cursor.at
                if at is None:
                    node = self._first if forward else self._last
                else:
                    node = at._next if forward else at._prev
                if node is None:
                    return
                cursor.at = node
                yield node
        finally:
            self._cursors.remove(cursor)

    def _splice_in(self, node: Node, before: Node | None, after: Node | None) -> None:
        node._prev, node._next = before, after
        if before is None:
            self._first = node
        else:
            before._next = node
        if after is None:
            self._last = node
        else:
            after._prev = node
        self._length += 1
        self._number(node)

    def _splice_out(self, node: Node) -> None:
        before, after = node._prev, node._next
        if before is None:
            self._first = after
        else:
            before._next = after
        if after is None:
            self._last = before
        else:
            after._prev = before
        self._length -= 1
        for cursor in self._cursors:
            if cursor.at is node:
                cursor.at = before if cursor.forward else after

    def _number(self, node: Node) -> None:
        before, after = node._prev, node._next
        if before is None:
            node._order = after._order - _GAP if after is not None else 0
        elif after is None:
            node._order = before._order + _GAP
        elif after._order - before._order > 1:
            node._order = (before._order + after._order) // 2
        else:
            node._order = before._order
            self._relabel(node)

    def _relabel(self, node: Node) -> int:
        """Spreads the order numbers around `node` evenly; returns how many nodes were touched.

        The smallest aligned range of order numbers around the node that is not too full is relabelled, where a larger
        range counts as full at a lower density: O(log n) amortised (Bender, Cole, Demaine, Farach-Colton, Zito: "Two
        simplified algorithms for maintaining order in a list", ESA 2002).
        """
        low = high = node
        count, bits = 1, 0
        while True:
            bits += 1
            size = 1 << bits
            base = node._order & -size
            while low._prev is not None and low._prev._order >= base:
                low, count = low._prev, count + 1
            while high._next is not None and high._next._order < base + size:
                high, count = high._next, count + 1
            if count <= _CAPACITY**bits and 2 * count <= size:
                break
        step = size // count
        each: Node | None = low
        for position in range(count):
            assert each is not None
            each._order = base + position * step
            each = each._next
        return count
