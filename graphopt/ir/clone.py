"""Copies of graphs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from graphopt.ir.graph import Graph
from graphopt.ir.node import Node
from graphopt.ir.value import Value


def clone(graph: Graph) -> Graph:
    """A copy of `graph` that shares the tensors of its constants. O(size of the graph).

    The copy of a body goes on reading the values of the graphs around it.
    """
    nodes: dict[Node, Node] = {}
    copied = _clone(graph, {}, nodes)
    copied._dirty = {nodes[node]: None for node in graph.root._dirty if node in nodes}
    return copied


def clone_nodes(nodes: Iterable[Node], values: dict[Value, Value]) -> Iterator[Node]:
    """Copies of `nodes`, in topological order and not linked yet.

    Args:
        nodes: of one graph.
        values: what the copies read in the place of what the nodes read; takes up the copies of their outputs.
    """
    copies: dict[Node, Node] = {}
    for node in nodes:
        yield _clone_node(node, values, copies)


def _clone(graph: Graph, values: dict[Value, Value], nodes: dict[Node, Node]) -> Graph:
    copied = Graph(graph.name)
    copied.model = copy.deepcopy(graph.model)
    copied.signature, copied.doc, copied.metadata = graph.signature, graph.doc, graph.metadata
    for value in graph.inputs:
        values[value] = _like(value, copied.add_input(value.name, value.type, default=value._data))
    for value in graph.constants:
        values[value] = copied.add_constant(_like(value, Value(value.type, value.name, value._data, value.parameter)))
    for node in graph.nodes:
        copied.append(_clone_node(node, values, nodes))
    copied.set_outputs([values.get(value, value) for value in graph.outputs], graph.output_names)
    return copied


def _clone_node(node: Node, values: dict[Value, Value], nodes: dict[Node, Node]) -> Node:
    attributes = {name: _clone_attribute(value, values, nodes) for name, value in node.attributes.items()}
    outputs = [_like(value, Value(value.type, value.name)) for value in node.outputs]
    values.update(zip(node.outputs, outputs, strict=True))
    copied = nodes[node] = Node(
        node.op,
        [None if value is None else values.get(value, value) for value in node.inputs],
        attributes,
        outputs,
        domain=node.domain,
        overload=node.overload,
        name=node.name,
        origin=node.origin,
    )
    copied.doc, copied.metadata = node.doc, node.metadata
    return copied


def _clone_attribute(value: Any, values: dict[Value, Value], nodes: dict[Node, Node]) -> Any:
    if isinstance(value, Graph):
        return _clone(value, values, nodes)
    if type(value) is tuple:
        return tuple(_clone_attribute(item, values, nodes) for item in value)
    return value


def _like(source: Value, copied: Value) -> Value:
    copied._known, copied._parameter, copied.inferred = source._known, source._parameter, source.inferred
    copied.doc, copied.metadata = source.doc, source._metadata or {}
    return copied
