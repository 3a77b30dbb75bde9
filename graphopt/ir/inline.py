"""Moving, or copying, the contents of a body to where its owner stands."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.clone import clone_nodes
from graphopt.ir.graph import Graph
from graphopt.ir.node import Node
from graphopt.ir.value import Value


def inline(body: Graph, owner: Node) -> list[Value]:
    """Moves all nodes and constants of `body` in front of `owner`; O(size of the body).

    Args:
        body: one of the bodies of `owner`, without inputs.
        owner: a linked node; it keeps the emptied body and must be erased once its outputs are replaced.

    Returns:
        What the body returned, now values of the graph around it.

    Raises:
        ValueError: the body has inputs, or `owner` is not linked into a graph.
    """
    outer = owner.graph
    if outer is None or body.inputs:
        raise ValueError(f"{body!r} cannot be moved in front of {owner.describe()}")
    for value in list(body.constants):
        body._unlink_constant(value)
        outer.add_constant(value)
    for node in list(body.nodes):
        body._unlink(node)
        outer.insert_before(owner, node)
    return list(body.outputs)


def inline_copy(body: Graph, owner: Node, arguments: Sequence[Value], constants: dict[Value, Value]) -> list[Value]:
    """Copies all nodes of `body` in front of `owner`, which keeps it; O(size of the body).

    Args:
        body: one of the bodies of `owner`.
        owner: a linked node.
        arguments: what stands for the inputs of the body; values that `owner` may read.
        constants: copies of the body's constants in the graph around it. Those that are missing are made and added, so
            that several copies of a body share them.

    Returns:
        What the copy gives for each output of the body.

    Raises:
        ValueError: another number of arguments than inputs, or `owner` is not linked into a graph.
    """
    outer = owner.graph
    if outer is None or len(arguments) != len(body.inputs):
        raise ValueError(f"{body!r} cannot be copied in front of {owner.describe()} with {len(arguments)} arguments")
    for value in body.constants:
        if value not in constants:
            constants[value] = outer.add_constant(Value(value.type, value.name, value._data, value.parameter))
    values = {**constants, **dict(zip(body.inputs, arguments, strict=True))}
    for node in clone_nodes(body.nodes, values):
        outer.insert_before(owner, node)
    return [values.get(value, value) for value in body.outputs]
