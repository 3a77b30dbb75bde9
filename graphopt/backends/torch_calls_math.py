"""Call forms of arithmetic: operators of Python where there are some, numbers as numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from graphopt.ir import DType, Node, Value
from graphopt.ops import attribute
from graphopt.ops.reduce import reduced_axes

if TYPE_CHECKING:
    from graphopt.backends.torch_emit import Emitter

Writer = Callable[["Emitter", Node], Any]


def _number_beside(e: Emitter, value: Value, other: Value) -> Any:
    """`value` as a Python number, where that computes the same with `other`."""
    if value.rank is None or other.rank is None or value.rank > other.rank or value.dtype is not other.dtype:
        return None
    if value.dtype is DType.BOOL or other.is_constant:
        return None
    return e.number(value)


def _pair(e: Emitter, node: Node) -> tuple[Any, Any]:
    """The two operands, at most one of them as a number."""
    a, b = node.operand(0), node.operand(1)
    right = _number_beside(e, b, a)
    if right is not None:
        return e.tensor(a), right
    left = _number_beside(e, a, b)
    return (e.tensor(a) if left is None else left), e.tensor(b)


def _binary(function: Callable[..., Any]) -> Writer:
    def write(e: Emitter, node: Node) -> Any:
        return e.call(function, *_pair(e, node))

    return write


def _div(e: Emitter, node: Node) -> Any:
    return e.call(operator.truediv, *_pair(e, node)) if node.output.dtype.is_float else None


def _pow(e: Emitter, node: Node) -> Any:
    base, exponent = node.operand(0), node.operand(1)
    number = e.number(exponent)
    if number is None or exponent.rank is None or base.rank is None or exponent.rank > base.rank:
        return None
    return e.call(operator.pow, e.tensor(base), number) if base.dtype.is_float else None


def _clip(e: Emitter, node: Node) -> Any:
    bounds = [None if value is None else e.number(value) for value in (node.input(1), node.input(2))]
    missing = any(b is None and v is not None for b, v in zip(bounds, (node.input(1), node.input(2)), strict=True))
    if missing or bounds == [None, None]:
        return None
    return e.call(torch.clamp, e.tensor(node.operand(0)), *bounds)


def _where(e: Emitter, node: Node) -> Any:
    condition, a, b = (node.operand(i) for i in range(3))
    if condition.rank is None:
        return None
    left, right = _choice(e, a, b, condition), _choice(e, b, a, condition)
    if left is not None and right is not None:
        left = None
    return e.call(
        torch.where,
        e.tensor(condition),
        e.tensor(a) if left is None else left,
        e.tensor(b) if right is None else right,
    )


def _choice(e: Emitter, value: Value, other: Value, condition: Value) -> Any:
    ranks = (value.rank, other.rank, condition.rank)
    if value.rank is None or other.rank is None or value.rank > max(rank or 0 for rank in ranks[1:]):
        return None
    # torch takes the type of the tensor among the two only when the number is of the same kind.
    return None if value.dtype is not other.dtype or value.dtype is DType.BOOL else e.number(value)


_PLAIN = frozenset(
    {DType.FLOAT32, DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16, DType.INT64, DType.INT32, DType.INT16, DType.INT8,
     DType.UINT8, DType.BOOL}
)  # fmt: skip


def _cast(e: Emitter, node: Node) -> Any:
    source, target = node.operand(0).dtype, DType(attribute(node, "to"))
    to_integer = source.is_float and target is not DType.BOOL and not target.is_float
    if source not in _PLAIN or target not in _PLAIN or to_integer:
        return None
    return e.method("to", e.tensor(node.operand(0)), target.torch)


def _reduce(name: str, floats_only: bool = True) -> Writer:
    def write(e: Emitter, node: Node) -> Any:
        x, axes = node.operand(0), reduced_axes(node)
        if not axes or not (x.dtype.is_float or (not floats_only and x.dtype is DType.INT64)):
            return None
        dims = axes[0] if len(axes) == 1 else list(axes)
        options = {"keepdim": True} if attribute(node, "keepdims") else {}
        return e.method(name, e.tensor(x), dims, **options)

    return write


MATH: dict[str, Writer] = {
    "Add": _binary(operator.add),
    "Cast": _cast,
    "Clip": _clip,
    "Div": _div,
    "Equal": _binary(operator.eq),
    "Greater": _binary(operator.gt),
    "GreaterOrEqual": _binary(operator.ge),
    "Less": _binary(operator.lt),
    "LessOrEqual": _binary(operator.le),
    "Mul": _binary(operator.mul),
    "Pow": _pow,
    "ReduceMax": _reduce("amax", floats_only=False),
    "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("amin", floats_only=False),
    "ReduceSum": _reduce("sum", floats_only=False),
    "Sub": _binary(operator.sub),
    "Where": _where,
}

__all__ = ["MATH"]
