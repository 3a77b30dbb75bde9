"""Moving the contents of a body to where its owner stands."""

from __future__ import annotations

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
