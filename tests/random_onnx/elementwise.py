"""Operators that work element by element, reductions, casts, logic and integer arithmetic."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import DType, Value
from tests.random_onnx.grower import Grower, Item, Made, Rejected, maker

_ANYWHERE = (
    "Abs", "Asinh", "Atan", "Celu", "Cos", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Mish", "Neg", "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Swish", "Tanh",
)  # fmt: skip
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Elu": {"alpha": 0.7}, "Selu": {"alpha": 1.5, "gamma": 1.1}, "Celu": {"alpha": 1.3},
    "Gelu": {"approximate": "tanh"}, "LeakyRelu": {"alpha": 0.2}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "Swish": {"alpha": 0.8}, "ThresholdedRelu": {"alpha": 0.4}, "Shrink": {"lambd": 0.4, "bias": 0.2},
}  # fmt: skip
#: What is applied first, to get into the domain of a function or keep its values small.
_DOMAINS = {
    "unit": ("Acos", "Asin", "Atanh", "Tan", "Exp", "Sinh", "Cosh"),
    "positive": ("Log", "Sqrt", "Reciprocal", "Acosh"),
}


@maker(5)
def unary(g: Grower) -> Made:
    name = g.rng.choice(_ANYWHERE)
    attributes = _ATTRIBUTES.get(name, {}) if g.chance(0.6) else {}
    return g.b(name, g.float().value, **attributes)


@maker(2)
def with_domain(g: Grower) -> Made:
    x = g.float()
    if g.chance(0.5):
        inside = g.b.Mul(g.b.Tanh(x.value), g.full(0.8, like=x))
        return g.b(g.rng.choice(_DOMAINS["unit"]), inside)
    inside = g.b.Add(g.b.Abs(x.value), g.full(1.1, like=x))
    return g.b(g.rng.choice(_DOMAINS["positive"]), inside)


@maker(2)
def by_contents(g: Grower) -> Made:
    """Rounding and thresholds."""
    x = g.float(lambda item: item.exact)
    name = g.rng.choice(["Ceil", "Floor", "Round", "Sign", "ThresholdedRelu", "Shrink", "IsNaN", "IsInf"])
    attributes = _ATTRIBUTES.get(name, {}) if g.chance(0.6) else {}
    if name == "IsInf":
        attributes = g.rng.choice([{}, {"detect_negative": 0}])
    return g.b(name, x.value, **attributes)


def broadcast(x: Item, y: Item) -> bool:
    """Whether two values can be broadcast together, at all sizes."""
    try:
        shapes = [torch.broadcast_shapes(a, b) for a, b in zip(x.sizes, y.sizes, strict=True)]
    except RuntimeError:
        return False
    return len(shapes[0]) <= 5


def small_constant(g: Grower, x: Item, low: float | None = None) -> Value:
    """A constant that broadcasts with `x`."""
    rank = g.rng.randint(0, x.rank)
    shape = [x.fixed(axis) or 1 if g.chance(0.6) else 1 for axis in range(x.rank - rank, x.rank)]
    return g.weight(*shape, like=x, low=low)


@maker(5)
def binary(g: Grower) -> Made:
    x = g.float()
    name = g.rng.choice(["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Mean", "Sum"])
    if name == "PRelu":
        return g.b.PRelu(x.value, small_constant(g, x))
    if name == "Pow":
        exponent = g.b.constant(torch.tensor(g.rng.choice([2, 3])).to(g.rng.choice([torch.float32, torch.int64])))
        return g.b.Pow(x.value, exponent)
    if name == "Div":
        return g.b.Div(x.value, small_constant(g, x, low=0.7))
    if g.chance(0.4):
        pair = [x.value, small_constant(g, x)]
    else:
        pair = [x.value, g.pick(lambda y: y.dtype is x.dtype and broadcast(x, y)).value]
    if g.chance(0.3):
        pair.reverse()
    if name in ("Max", "Min", "Mean", "Sum") and g.chance(0.3):
        pair = [*pair, x.value] if g.chance(0.5) else pair[:1]
    return g.b(name, *pair)


@maker()
def clip(g: Grower) -> Made:
    x = g.pick(lambda item: item.is_float or item.is_integer)
    low, high = g.rng.choice([None, -1, 0]), g.rng.choice([None, 1, 2])
    bounds = [None if each is None else g.b.constant(torch.tensor(each), like=x.value) for each in (low, high)]
    if x.value.dtype.name.startswith("U"):
        bounds[0] = None
    return g.b.Clip(x.value, *bounds)


# -- comparisons and logic


@maker(2)
def compare(g: Grower) -> Made:
    x = g.pick(lambda item: item.exact and (item.is_float or item.is_integer))
    name = g.rng.choice(["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"])
    if g.chance(0.5):
        return g.b(name, x.value, g.b.constant(torch.tensor(g.rng.choice([0, 1])), like=x.value))
    y = g.pick(lambda item: item.exact and item.dtype is x.dtype and broadcast(x, item))
    return g.b(name, x.value, y.value)


@maker()
def logic(g: Grower) -> Made:
    x = g.pick(lambda item: item.dtype is DType.BOOL)
    if g.chance(0.3):
        return g.b.Not(x.value)
    y = g.pick(lambda item: item.dtype is DType.BOOL and broadcast(x, item))
    return g.b(g.rng.choice(["And", "Or", "Xor", "Equal"]), x.value, y.value)


@maker(2)
def where(g: Grower) -> Made:
    condition = g.pick(lambda item: item.dtype is DType.BOOL)
    x = g.pick(lambda item: broadcast(condition, item))
    y = g.pick(lambda item: item.dtype is x.dtype and broadcast(x, item) and broadcast(condition, item))
    shapes = [s.sizes for s in (condition, x, y)]
    for sizes in zip(*shapes, strict=True):
        try:
            torch.broadcast_shapes(*sizes)
        except RuntimeError:
            raise Rejected from None
    return g.b.Where(condition.value, x.value, y.value)


# -- element types

_TYPES = (
    DType.FLOAT32, DType.FLOAT64, DType.FLOAT16, DType.INT64, DType.INT32, DType.INT8, DType.UINT8, DType.INT16,
    DType.BOOL, DType.UINT32, DType.UINT16,
)  # fmt: skip


@maker(2)
def cast(g: Grower) -> Made:
    to = g.rng.choice(_TYPES)
    x = g.pick(lambda item: item.exact or (to.is_float and item.is_float))
    least = min(float(t.double().min()) for t in x.data)
    if to.name.startswith("U") and least <= -1:  # what that gives is for every runtime to decide
        raise Rejected
    if g.chance(0.2):
        like = [item for item in g.pool if item.dtype is to]
        if like:
            return g.b.CastLike(x.value, g.rng.choice(like).value)
    return g.b.Cast(x.value, to=int(to))


@maker()
def back_to_float(g: Grower) -> Made:
    return g.b.Cast(g.pick(lambda item: item.dtype is not DType.FLOAT32).value, to=int(DType.FLOAT32))


# -- integers


@maker(2)
def integer(g: Grower) -> Made:
    x = g.pick(lambda item: item.is_integer)
    name = g.rng.choice(["Add", "Sub", "Mul", "Mod", "Div", "Max", "Min", "Abs", "Neg", "BitwiseAnd", "BitwiseOr",
                         "BitwiseXor", "BitwiseNot", "Sign", "BitShift"])  # fmt: skip
    unsigned = x.dtype.name.startswith("U")
    if name in ("Abs", "Neg", "BitwiseNot", "Sign"):
        return g.b(name, x.value)
    if unsigned and name in ("Sub", "Neg"):
        raise Rejected
    if name == "BitShift":
        if not unsigned:
            raise Rejected
        return g.b.BitShift(
            x.value, g.b.constant(torch.tensor(1), like=x.value), direction=g.rng.choice(["LEFT", "RIGHT"])
        )
    if g.chance(0.5) or name in ("Mod", "Div"):
        number = g.rng.choice([2, 3]) if unsigned or g.chance(0.7) else -2
        if name == "Div" and not unsigned and number < 0:
            number = 2
        other = g.b.constant(torch.tensor(number), like=x.value)
        if name == "Mod":
            return g.b.Mod(x.value, other, fmod=g.rng.choice([0, 1]))
        return g.b(name, x.value, other)
    y = g.pick(lambda item: item.dtype is x.dtype and broadcast(x, item))
    return g.b(name, x.value, y.value)


@maker()
def float_mod(g: Grower) -> Made:
    x = g.float(lambda item: item.exact)
    return g.b.Mod(x.value, g.full(0.75, like=x), fmod=1)


# -- reductions

_REDUCTIONS = ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp", "LogSum")


@maker(4)
def reduce(g: Grower) -> Made:
    name = g.rng.choice(_REDUCTIONS)
    x = g.float(rank=1) if g.chance(0.85) else g.pick(lambda item: item.dtype in (DType.INT32, DType.INT64))
    if x.rank == 0:
        raise Rejected
    value = x.value
    if name in ("LogSum", "LogSumExp", "L2") and not x.is_float:
        raise Rejected  # how precise what comes between is, every runtime decides
    if name == "LogSum":
        value = g.b.Add(g.b.Abs(value), g.full(0.5, like=x))
    axes = sorted({g.axis(x) % x.rank for _ in range(g.rng.choice([1, 1, 2]))})
    axes = [a - x.rank if g.chance(0.3) else a for a in axes]
    keep = g.rng.choice([None, 0, 1])
    if g.chance(0.1):
        return g.b(f"Reduce{name}", value, keepdims=keep)
    if g.chance(0.05) and g.opset >= 18:
        return g.b(f"Reduce{name}", value, keepdims=keep, noop_with_empty_axes=1)
    return _reduce(g, f"Reduce{name}", value, axes, keep)


def _reduce(g: Grower, name: str, value: Value, axes: list[int], keep: int | None) -> Value:
    """Axes were an attribute before opset 18, but for ReduceSum."""
    return g.b(name, value, g.ints(axes), keepdims=keep)


@maker()
def arg_reduce(g: Grower) -> Made:
    x = g.pick(lambda item: item.exact and item.rank > 0 and (item.is_float or item.is_integer))
    name = g.rng.choice(["ArgMax", "ArgMin"])
    last = g.rng.choice([None, 1]) if x.is_integer else None
    return g.b(name, x.value, axis=g.axis(x), keepdims=g.rng.choice([None, 0]), select_last_index=last)


@maker(2)
def along(g: Grower) -> Made:
    x = g.float(rank=1)
    name = g.rng.choice(["Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization"])
    axis = g.axis(x)
    if name == "Hardmax" and not x.exact:
        raise Rejected
    if name == "CumSum":
        exclusive, reverse = g.rng.choice([None, 1]), g.rng.choice([None, 1])
        return g.b.CumSum(x.value, g.ints(axis), exclusive=exclusive, reverse=reverse)
    if name == "LpNormalization":
        return g.b.LpNormalization(x.value, axis=axis, p=g.rng.choice([None, 1]))
    return g.b(name, x.value, axis=axis)
