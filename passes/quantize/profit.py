"""What nodes cost on a target, in float and on integers, by the target's own figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphopt.analysis.cost import UNIT, at_sizes, node_cost, sized
from graphopt.ir import Graph, Node, Value


class InUse:
    """The nodes and values of a graph with the shapes that they have in use, for what they cost.

    Args:
        graph: the graph.
        sizes: sizes of named dimensions; the others count as 1.
    """

    def __init__(self, graph: Graph, sizes: Mapping[str, int] = UNIT) -> None:
        twin = at_sizes(graph, sizes) if sizes else graph
        self._nodes = dict(zip(graph.nodes, twin.nodes, strict=True))
        self._values = dict(zip(graph.inputs, twin.inputs, strict=True))
        for node, shaped in self._nodes.items():
            self._values.update(zip(node.outputs, shaped.outputs, strict=True))

    def terms(self, node: Node) -> dict[str, float]:
        """`terms_of` a node of the graph."""
        return terms_of(self._nodes[node])

    def border_cost(self, rates: Mapping[str, float], value: Value) -> float:
        """The cost of quantizing or dequantizing a value of the graph."""
        return border_cost(rates, self._values[value])


def terms_of(node: Node) -> dict[str, float]:
    """The quantities that costs are made of, for one node; open dimensions are 1."""
    first = next((value for value in node.inputs if value is not None), None)
    weight = node.input(1)
    kernel = _kernel(node)
    shape = _shape(node.outputs[0])
    return {
        "call": 1,
        "mac": node_cost(node).macs or 0,
        "element": math.prod(shape),
        "input": elements(first) if first is not None else 0,
        "tap": math.prod(shape[:1] + shape[2:]) * kernel if kernel > 1 else 0,
        "window": math.prod(shape) * kernel,
        "weight": elements(weight) if weight is not None and weight.is_constant else 0,
    }


def nanoseconds(rates: Mapping[str, float], terms: Mapping[str, float]) -> float:
    """The cost of a node or border."""
    return sum(rate * terms[term] for term, rate in rates.items())


def border_cost(rates: Mapping[str, float], value: Value) -> float:
    """The cost of quantizing or dequantizing a value; open dimensions are 1."""
    size = elements(value)
    return nanoseconds(rates, dict.fromkeys(("call",), 1) | dict.fromkeys(("element", "input"), size))


def elements(value: Value) -> int:
    """Elements of a value; open dimensions are 1."""
    return math.prod(_shape(value))


def _shape(value: Value) -> list[int]:
    return [1 if (size := sized(dim)) is None else size for dim in value.shape or ()]


def _kernel(node: Node) -> int:
    extents = node.attributes.get("kernel_shape")
    if isinstance(extents, tuple):
        return math.prod(int(extent) for extent in extents if isinstance(extent, int))
    weight = node.input(1)
    return math.prod(_shape(weight)[2:]) if weight is not None and weight.rank is not None else 1
