"""Which operators a graph has, and where: one walk serves all passes that run before the next edit."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping

from graphopt.ir import Graph, Node

#: Nodes by domain and operator, with their places in the walk over the graph and its bodies.
Index = Mapping[tuple[str, str], list[tuple[int, Node]]]

_cache: weakref.WeakKeyDictionary[Graph, tuple[int, Index]] = weakref.WeakKeyDictionary()


def operator_index(graph: Graph) -> Index:
    """The nodes of `graph` and its bodies by operator; kept until the graph changes."""
    entry = _cache.get(graph)
    if entry is None or entry[0] != graph.version:
        found: dict[tuple[str, str], list[tuple[int, Node]]] = {}
        for place, node in enumerate(graph.walk()):
            found.setdefault((node.domain, node.op), []).append((place, node))
        entry = (graph.version, found)
        _cache[graph] = entry
    return entry[1]


def nodes_of(graph: Graph, operators: Iterable[tuple[str, str]]) -> list[Node]:
    """The nodes that apply any of some operators, in the order of a walk."""
    index = operator_index(graph)
    found = [item for key in operators for item in index.get(key, ())]
    return [node for _, node in sorted(found, key=lambda item: item[0])]


__all__ = ["Index", "nodes_of", "operator_index"]
