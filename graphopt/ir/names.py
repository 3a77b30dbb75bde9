"""Labels of values, made unique."""

from __future__ import annotations

from graphopt.ir.graph import Graph


def unique_names(graph: Graph) -> None:
    """Gives every value of the graph, bodies included, a name of its own; the first to have a name keeps it.

    Linear in the size of the graph.
    """
    taken: set[str] = set()
    next_number: dict[str, int] = {}
    for scope in graph.graphs():
        for value in scope.values():
            stem = name = value.name or "value"
            while name in taken or not value.name:
                number = next_number.get(stem, 0)
                next_number[stem] = number + 1
                name = f"{stem}_{number}"
                if name not in taken:
                    break
            taken.add(name)
            if name is not stem:
                value.name = name
