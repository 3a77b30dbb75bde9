"""Uses across graph borders: what the bodies of a node read from the graphs around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from graphopt.ir.value import Use, Value

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.ir.node import Node


def captured(node: Node) -> list[Value]:
    """The values of surrounding graphs that the bodies of `node` read, each once, in order of first use."""
    bodies = node.bodies
    return list(dict.fromkeys(value for value, _ in captured_uses(bodies))) if bodies else []


def captured_uses(bodies: Iterable[Graph]) -> Iterator[tuple[Value, Use]]:
    """The places inside `bodies` (and theirs) that read a value from outside of them."""
    graphs = [inner for body in bodies for inner in body.graphs()]
    inside = set(graphs)
    for graph in graphs:
        for node in graph.nodes:
            for index, value in enumerate(node.inputs):
                if value is not None and value.graph not in inside:
                    yield value, Use(node, index)
        for index, value in enumerate(graph.outputs):
            if value.graph not in inside:
                yield value, Use(graph, index)


def register_captured(bodies: Iterable[Graph]) -> None:
    """Adds the uses of outside values by `bodies`; those of their own values are always there."""
    for value, use in captured_uses(bodies):
        value._uses[use] = None


def drop_captured(bodies: Iterable[Graph]) -> None:
    """Removes the uses of outside values by `bodies`."""
    for value, use in captured_uses(bodies):
        value._uses.pop(use, None)


def register(node: Node) -> None:
    """Adds the uses by `node` and by its bodies."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            value._uses[Use(node, index)] = None
    owned = node._owned_bodies()
    if owned:
        register_captured(owned)


def drop(node: Node) -> None:
    """Removes the uses by `node` and, of values around it, by its bodies."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            value._uses.pop(Use(node, index), None)
    owned = node._owned_bodies()
    if owned:
        drop_captured(owned)
