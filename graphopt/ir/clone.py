"""Copies of graphs."""

from __future__ import annotations

import copy
from typing import Any

from graphopt.ir.graph import Graph
from graphopt.ir.node import Node
from graphopt.ir.value import Value


def clone(graph: Graph) -> Graph:
    """A copy of `graph` that shares the tensors of its constants. O(size of the graph)."""
    return _clone(graph, {})


def _clone(graph: Graph, mapping: dict[Value, Value]) -> Graph:
    copied = Graph(graph.name)
    copied.model = copy.deepcopy(graph.model)
    copied.signature, copied.doc, copied.metadata = graph.signature, graph.doc, dict(graph.metadata)
    for value in graph.inputs:
        mapping[value] = _like(value, copied.add_input(value.name, value.type, default=value.data))
    for value in graph.constants:
        mapping[value] = copied.add_constant(_like(value, Value(value.type, value.name, value._data, value.parameter)))
    for node in graph.nodes:
        copied.append(_clone_node(node, mapping))
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        copied.add_output(mapping.get(value, value), name)
    if not graph.root._dirty:
        copied._dirty = {}
    return copied


def _clone_node(node: Node, mapping: dict[Value, Value]) -> Node:
    attributes = {name: _clone_attribute(value, mapping) for name, value in node.attributes.items()}
    outputs = [_like(value, Value(value.type, value.name)) for value in node.outputs]
    mapping.update(zip(node.outputs, outputs, strict=True))
    copied = Node(
        node.op,
        [None if value is None else mapping.get(value, value) for value in node.inputs],
        attributes,
        outputs,
        domain=node.domain,
        overload=node.overload,
        name=node.name,
        origin=node.origin,
    )
    copied.doc, copied.metadata = node.doc, dict(node.metadata)
    return copied


def _clone_attribute(value: Any, mapping: dict[Value, Value]) -> Any:
    if isinstance(value, Graph):
        return _clone(value, mapping)
    if isinstance(value, tuple):
        return tuple(_clone_attribute(item, mapping) for item in value)
    return value


def _like(source: Value, copied: Value) -> Value:
    copied._known, copied._parameter = source._known, source._parameter
    copied.doc, copied.metadata = source.doc, dict(source.metadata)
    return copied
