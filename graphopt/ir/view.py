"""The networkx view of a graph, for the algorithms that networkx has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.ir.graph import Graph
from graphopt.ir.uses import captured

if TYPE_CHECKING:
    import networkx

__all__ = ["to_networkx"]


def to_networkx(graph: Graph, *, constants: bool = True) -> networkx.MultiDiGraph[Any]:
    """The graph (not its bodies) as a multigraph that can be thrown away; O(size of the graph).

    Its nodes are the `Node` objects, the input `Value` objects and the constant `Value` objects, with the attribute
    ``kind`` (``"node"``, ``"input"``, ``"constant"``). An edge goes from what defines a value to each node that reads
    it, with the attributes ``value``, ``index`` (which input; ``None`` when a body of the reader reads it) and
    ``output`` (which output of its producer). Graph outputs are the networkx graph's attribute ``outputs``: the nodes
    or values that define them.

    Args:
        graph: the graph to view.
        constants: whether constants are part of it; most algorithms want the flow of activations only.
    """
    import networkx as nx

    view: networkx.MultiDiGraph[Any] = nx.MultiDiGraph(name=graph.name)
    view.add_nodes_from(graph.inputs, kind="input")
    if constants:
        view.add_nodes_from(graph.constants, kind="constant")
    for node in graph.nodes:
        view.add_node(node, kind="node")
        reads = [(value, index) for index, value in enumerate(node.inputs) if value is not None]
        for value, place in [*reads, *((value, None) for value in captured(node))]:
            if value.graph is graph and (constants or not value.is_constant):
                view.add_edge(value.producer or value, node, value=value, index=place, output=value.index)
    view.graph["outputs"] = [value.producer or value for value in graph.outputs]
    return view
