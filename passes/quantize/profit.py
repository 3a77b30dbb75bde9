"""What nodes cost on a target, in float and on integers, by the target's own figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphopt.analysis.cost import UNIT, node_cost, sized
from graphopt.ir import Node, Value


def terms_of(node: Node, sizes: Mapping[str, int] = UNIT) -> dict[str, float]:
    """The quantities that costs are made of, for one node; unknown dimensions, and named ones not in `sizes`, are 1."""
    first = next((value for value in node.inputs if value is not None), None)
    weight = node.input(1)
    kernel = _kernel(node)
    shape = _shape(node.outputs[0], sizes)
    return {
        "call": 1,
        "mac": node_cost(node, sizes).macs or 0,
        "element": math.prod(shape),
        "input": elements(first, sizes) if first is not None else 0,
        "tap": math.prod(shape[:1] + shape[2:]) * kernel if kernel > 1 else 0,
        "window": math.prod(shape) * kernel,
        "weight": elements(weight, sizes) if weight is not None and weight.is_constant else 0,
    }


def nanoseconds(rates: Mapping[str, float], terms: Mapping[str, float]) -> float:
    """The cost of a node or border."""
    return sum(rate * terms[term] for term, rate in rates.items())


def border_cost(rates: Mapping[str, float], value: Value, sizes: Mapping[str, int] = UNIT) -> float:
    """The cost of quantizing or dequantizing a value."""
    size = elements(value, sizes)
    return nanoseconds(rates, dict.fromkeys(("call",), 1) | dict.fromkeys(("element", "input"), size))


def elements(value: Value, sizes: Mapping[str, int] = UNIT) -> int:
    """Elements of a value."""
    return math.prod(_shape(value, sizes))


def _shape(value: Value, sizes: Mapping[str, int] = UNIT) -> list[int]:
    return [1 if (size := sized(dim, sizes)) is None else size for dim in value.shape or ()]


def _kernel(node: Node) -> int:
    extents = node.attributes.get("kernel_shape")
    if isinstance(extents, tuple):
        return math.prod(int(extent) for extent in extents if isinstance(extent, int))
    weight = node.input(1)
    return math.prod(_shape(weight)[2:]) if weight is not None and weight.rank is not None else 1
