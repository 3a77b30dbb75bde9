"""Canonical operators in the form that older opsets have for them.

Most operators read the same since opset 13, apart from attributes and element types that came later (`onnx_opset`
compares those with the schemas). What is here changed its form, or gives a meaning to a value that used to have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from graphopt.ir import Node, Value
from graphopt.ops.infer import static_integers


class Form(NamedTuple):
    """How a node is written.

    Attributes:
        inputs: values; tensors stand for constants that are made for this form.
        attributes: of the operator.
    """

    inputs: Sequence[Value | torch.Tensor | None]
    attributes: Mapping[str, Any]


#: The form of a node below an opset, or ``None`` when it has none there.
Downgrade: TypeAlias = Callable[[Node], Form | None]

#: By operator: (first opset at which the canonical form is understood, form below it).
DOWNGRADES: dict[str, tuple[int, Downgrade]] = {}

#: Values of attributes that older versions of an operator do not know: (operator, attribute, value) -> opset.
VALUE_SINCE: dict[tuple[str, str, Any], int] = {
    ("Pad", "mode", "wrap"): 19,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
    ("ScatterElements", "reduction", "max"): 18,
    ("ScatterElements", "reduction", "min"): 18,
    ("ScatterND", "reduction", "max"): 18,
    ("ScatterND", "reduction", "min"): 18,
}
OPS_WITH_VALUES = frozenset(op for op, _, _ in VALUE_SINCE)


def form_at(node: Node, opset: int) -> Form | None:
    """How a standard operator is written at `opset`; ``None`` when it cannot be.

    Attributes and types that the opset's schema does not have are not looked at here.
    """
    if node.op in OPS_WITH_VALUES:
        for name, value in node.attributes.items():
            if isinstance(value, str) and VALUE_SINCE.get((node.op, name, value), 0) > opset:
                return None
    entry = DOWNGRADES.get(node.op)
    if entry is None or opset >= entry[0]:
        return Form(node.inputs, node.attributes)
    return entry[1](node)


def _downgrade(below: int, *ops: str) -> Callable[[Downgrade], Downgrade]:
    def decorate(form: Downgrade) -> Downgrade:
        for op in ops:
            DOWNGRADES[op] = (below, form)
        return form

    return decorate


def _constant(value: Value | None) -> list[int] | None:
    """The elements of an integer input that is constant, or that shape propagation has found to be."""
    return static_integers(value)


def _without(attributes: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in names}


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


@_downgrade(18, *(f"Reduce{kind}" for kind in _REDUCTIONS))
def _reduce(node: Node) -> Form | None:
    keeps_all = node.attributes.get("noop_with_empty_axes", 0)
    attributes = _without(node.attributes, "noop_with_empty_axes")
    axes = [] if node.input(1) is None else _constant(node.input(1))
    if axes is None or (keeps_all and not axes):
        return None
    return Form([node.input(0)], {**attributes, "axes": tuple(axes)} if axes else attributes)


@_downgrade(18, "Split")
def _split(node: Node) -> Form | None:
    attributes = _without(node.attributes, "num_outputs")
    if node.input(1) is not None:
        return Form(node.inputs, attributes)
    x, count = node.operand(0), len(node.outputs)
    axis = node.attributes.get("axis", 0)
    size = x.shape[axis] if x.shape is not None else None
    if not isinstance(size, int):
        return None
    if size % count == 0:
        return Form([x], attributes)
    each = -(-size // count)
    sizes = [max(min(each, size - i * each), 0) for i in range(count)]
    return Form([x, torch.tensor(sizes)], attributes)


@_downgrade(14, "Reshape")
def _reshape(node: Node) -> Form | None:
    if node.attributes.get("allowzero", 0):
        sizes = _constant(node.input(1))
        if sizes is None or 0 in sizes:
            return None
    return Form(node.inputs, _without(node.attributes, "allowzero"))


@_downgrade(18, "Pad")
def _pad(node: Node) -> Form | None:
    if node.input(3) is None:
        return Form(node.inputs[:3], node.attributes)
    axes, pads, rank = _constant(node.input(3)), _constant(node.input(1)), node.operand(0).rank
    if axes is None or pads is None or rank is None:
        return None
    full = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        full[axis % rank] = pads[position]
        full[axis % rank + rank] = pads[position + len(axes)]
    return Form([node.input(0), torch.tensor(full), node.input(2)], node.attributes)


@_downgrade(20, "GridSample")
def _grid_sample(node: Node) -> Form | None:
    if "mode" not in node.attributes:
        return Form(node.inputs, node.attributes)
    mode = node.attributes["mode"]
    old = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return Form(node.inputs, {**node.attributes, "mode": old})


@_downgrade(20, "DFT")
def _dft(node: Node) -> Form | None:
    axis = [-2] if node.input(2) is None else _constant(node.input(2))
    rank = node.operand(0).rank
    if axis is None or (axis[0] < 0 and rank is None):
        return None
    positive = axis[0] if rank is None else axis[0] % rank
    return Form(node.inputs[:2], {**node.attributes, "axis": positive})


@_downgrade(16, "RoiAlign")
def _roi_align(node: Node) -> Form | None:
    if node.attributes.get("coordinate_transformation_mode", "half_pixel") != "output_half_pixel":
        return None
    return Form(node.inputs, _without(node.attributes, "coordinate_transformation_mode"))


@_downgrade(28, "Mod")
def _mod(node: Node) -> Form | None:
    """Floating-point numbers had to be divided as in C (``fmod=1``)."""
    divides_as_c = node.attributes.get("fmod", 0)
    return None if node.operand(0).dtype.is_float and not divides_as_c else Form(node.inputs, node.attributes)


@_downgrade(1 << 30, "MeanVarianceNormalization")
def _mean_variance(node: Node) -> Form | None:
    """ONNX's own expansion of this operator forgets that `axes` has a default."""
    return Form(node.inputs, {"axes": (0, 2, 3), **node.attributes})
