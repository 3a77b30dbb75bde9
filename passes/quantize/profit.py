"""What nodes cost on a target, in float and on integers, by the target's own figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphopt.analysis.cost import node_cost
from graphopt.ir import Dim, Node, Value
from graphopt.ir import dims as D


def terms_of(node: Node) -> dict[str, float]:
    """The quantities that costs are made of, for one node; named dimensions count as 1, unknown shapes as nothing."""
    first = next((value for value in node.inputs if value is not None), None)
    weight = node.input(1)
    kernel = _kernel(node)
    shape = _sizes(node.outputs[0])
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
    """The cost of quantizing or dequantizing a value."""
    size = elements(value)
    return nanoseconds(rates, dict.fromkeys(("call",), 1) | dict.fromkeys(("element", "input"), size))


def elements(value: Value) -> int:
    """Elements of a value; named dimensions count as 1."""
    return math.prod(_sizes(value))


def _sizes(value: Value) -> list[int]:
    return [_size(dim) for dim in value.shape or ()]


def _size(dim: Dim) -> int:
    if isinstance(dim, int):
        return dim
    bound = D.substitute(dim, dict.fromkeys(D.free_names(dim), 1)) if dim is not None else 1
    return bound if isinstance(bound, int) else 1


def _kernel(node: Node) -> int:
    extents = node.attributes.get("kernel_shape")
    if isinstance(extents, tuple):
        return math.prod(int(extent) for extent in extents if isinstance(extent, int))
    weight = node.input(1)
    return math.prod(_sizes(weight)[2:]) if weight is not None and weight.rank is not None else 1
