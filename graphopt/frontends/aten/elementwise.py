"""Arithmetic, comparisons and elementary functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from graphopt.frontends.aten.builder import COMPLEX, Builder, Operand, require
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value

# -- one operand

_UNARY = {
    "abs": "Abs", "neg": "Neg", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "sin": "Sin", "cos": "Cos", "tan": "Tan",
    "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh",
    "acosh": "Acosh", "atanh": "Atanh", "erf": "Erf", "sigmoid": "Sigmoid", "sign": "Sign", "sgn": "Sign",
    "reciprocal": "Reciprocal", "arcsin": "Asin", "arccos": "Acos", "arctan": "Atan", "absolute": "Abs",
    "negative": "Neg", "special_expit": "Sigmoid", "special_erf": "Erf", "arctanh": "Atanh", "arcsinh": "Asinh",
    "arccosh": "Acosh",
}  # fmt: skip
_ROUNDING = {"floor": "Floor", "ceil": "Ceil", "round": "Round"}


def _unary(op: str) -> Callable[[Builder, Value], Value]:
    def convert(c: Builder, self: Value) -> Value:
        require(op != "Sign" or self.dtype not in COMPLEX, "the direction of complex numbers")
        return c.emit(op, c.cast(self, c.result.dtype))

    return convert


for _name, _op in _UNARY.items():
    converts(f"aten.{_name}.default")(_unary(_op))


def _rounding(op: str) -> Callable[[Builder, Value], Value]:
    def convert(c: Builder, self: Value) -> Value:
        return c.emit(op, self) if self.dtype.is_float else self

    return convert


for _name, _op in _ROUNDING.items():
    converts(f"aten.{_name}.default")(_rounding(_op))


@converts("aten.positive.default")
def identity(c: Builder, self: Value) -> Value:
    return self


@converts("aten.real.default")
def real(c: Builder, self: Value) -> Value:
    require(self.dtype not in COMPLEX, "the real part of a complex tensor")
    return self


@converts("aten.rsqrt.default")
def rsqrt(c: Builder, self: Value) -> Value:
    return c.emit("Reciprocal", c.emit("Sqrt", c.cast(self, c.result.dtype)))


@converts("aten.square.default")
def square(c: Builder, self: Value) -> Value:
    return c.emit("Mul", self, self)


@converts("aten.trunc.default", "aten.fix.default")
def trunc(c: Builder, self: Value) -> Value:
    if not self.dtype.is_float:
        return self
    return c.emit("Mul", c.emit("Sign", self), c.emit("Floor", c.emit("Abs", self)))


@converts("aten.frac.default")
def frac(c: Builder, self: Value) -> Value:
    return c.emit("Sub", self, trunc(c, self))


@converts("aten.exp2.default")
def exp2(c: Builder, self: Value) -> Value:
    return c.emit("Pow", c.scalar(2.0, c.result.dtype), c.cast(self, c.result.dtype))


def _log_to(base: float) -> Callable[[Builder, Value], Value]:
    def convert(c: Builder, self: Value) -> Value:
        dtype = c.result.dtype
        return c.emit("Mul", c.emit("Log", c.cast(self, dtype)), c.scalar(1 / math.log(base), dtype))

    return convert


converts("aten.log2.default")(_log_to(2))
converts("aten.log10.default")(_log_to(10))


@converts("aten.erfc.default", "aten.special_erfc.default")
def erfc(c: Builder, self: Value) -> Value:
    dtype = c.result.dtype
    return c.emit("Sub", c.scalar(1.0, dtype), c.emit("Erf", c.cast(self, dtype)))


@converts("aten.logit.default")
def logit(c: Builder, self: Value, eps: float | None = None) -> Value:
    dtype = c.result.dtype
    x = c.cast(self, dtype)
    if eps is not None:
        x = c.emit("Clip", x, c.scalar(eps, dtype), c.scalar(1 - eps, dtype))
    return c.emit("Log", c.emit("Div", x, c.emit("Sub", c.scalar(1.0, dtype), x)))


@converts("aten.isnan.default")
def isnan(c: Builder, self: Value) -> Value:
    require(self.dtype.is_float, "integers are never NaN")
    return c.emit("IsNaN", self)


@converts("aten.isinf.default")
def isinf(c: Builder, self: Value) -> Value:
    require(self.dtype.is_float, "integers are never infinite")
    return c.emit("IsInf", self)


@converts("aten.isfinite.default")
def isfinite(c: Builder, self: Value) -> Value:
    require(self.dtype.is_float, "integers are always finite")
    return c.emit("Not", c.emit("Or", c.emit("IsNaN", self), c.emit("IsInf", self)))


# -- two operands


def joint(c: Builder, op: str, a: Operand, b: Operand, **attributes: Any) -> Value:
    """Both operands cast to the result's element type."""
    dtype = c.result.dtype
    return c.emit(op, c.operand(a, dtype), c.operand(b, dtype), **attributes)


@converts("aten.add.Tensor", "aten.add.Scalar")
def add(c: Builder, self: Operand, other: Operand, alpha: Operand = 1) -> Value:
    if c.result.dtype == DType.BOOL:
        return joint(c, "Or", self, other)
    return joint(c, "Add", self, _scaled(c, other, alpha))


@converts("aten.sub.Tensor", "aten.sub.Scalar", "aten.subtract.Tensor")
def sub(c: Builder, self: Operand, other: Operand, alpha: Operand = 1) -> Value:
    return joint(c, "Sub", self, _scaled(c, other, alpha))


@converts("aten.rsub.Scalar", "aten.rsub.Tensor")
def rsub(c: Builder, self: Operand, other: Operand, alpha: Operand = 1) -> Value:
    return joint(c, "Sub", other, _scaled(c, self, alpha))


def _scaled(c: Builder, other: Operand, alpha: Operand) -> Operand:
    if not isinstance(alpha, Value):
        if alpha == 1:
            return other
        if not isinstance(other, Value):
            return other * alpha
    return joint(c, "Mul", other, alpha)


@converts("aten.mul.Tensor", "aten.mul.Scalar", "aten.multiply.Tensor")
def mul(c: Builder, self: Operand, other: Operand) -> Value:
    return joint(c, "And" if c.result.dtype == DType.BOOL else "Mul", self, other)


@converts("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor", "aten.divide.Tensor")
def div(c: Builder, self: Operand, other: Operand) -> Value:
    return joint(c, "Div", self, other)


@converts("aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.divide.Tensor_mode")
def div_mode(c: Builder, self: Operand, other: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":
        return floor_divide(c, self, other)
    quotient = joint(c, "Div", self, other)
    if rounding_mode is None or not c.result.dtype.is_float:
        return quotient
    return c.emit("Mul", c.emit("Sign", quotient), c.emit("Floor", c.emit("Abs", quotient)))


@converts("aten.floor_divide.default", "aten.floor_divide.Scalar")
def floor_divide(c: Builder, self: Operand, other: Operand) -> Value:
    dtype = c.result.dtype
    a, b = c.operand(self, dtype), c.operand(other, dtype)
    if dtype.is_float:
        return c.emit("Floor", c.emit("Div", a, b))
    # Div of integers truncates; a - mod(a, b), with the sign of b, is the multiple below.
    return c.emit("Div", c.emit("Sub", a, c.emit("Mod", a, b)), b)


@converts("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def remainder(c: Builder, self: Operand, other: Operand) -> Value:
    dtype = c.result.dtype
    a, b = c.operand(self, dtype), c.operand(other, dtype)
    if not dtype.is_float:
        return c.emit("Mod", a, b)
    return c.emit("Sub", a, c.emit("Mul", c.emit("Floor", c.emit("Div", a, b)), b))


@converts("aten.fmod.Tensor", "aten.fmod.Scalar")
def fmod(c: Builder, self: Operand, other: Operand) -> Value:
    return joint(c, "Mod", self, other, fmod=1)


@converts("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar")
def power(c: Builder, self: Operand, exponent: Operand) -> Value:
    dtype = c.result.dtype
    if isinstance(self, Value) and not isinstance(exponent, Value):
        x = c.cast(self, dtype)
        if exponent == 0.5:
            return c.emit("Sqrt", x)
        if exponent == 2:
            return c.emit("Mul", x, x)
        if exponent == -0.5:
            return c.emit("Reciprocal", c.emit("Sqrt", x))
    return joint(c, "Pow", self, exponent)


@converts("aten.hypot.default")
def hypot(c: Builder, self: Value, other: Value) -> Value:
    return c.emit("Sqrt", c.emit("Add", joint(c, "Mul", self, self), joint(c, "Mul", other, other)))


@converts("aten.maximum.default", "aten.max.other", "aten.fmax.default")
def maximum(c: Builder, self: Operand, other: Operand) -> Value:
    return joint(c, "Or" if c.result.dtype == DType.BOOL else "Max", self, other)


@converts("aten.minimum.default", "aten.min.other", "aten.fmin.default")
def minimum(c: Builder, self: Operand, other: Operand) -> Value:
    return joint(c, "And" if c.result.dtype == DType.BOOL else "Min", self, other)


@converts("aten.addcmul.default")
def addcmul(c: Builder, self: Value, tensor1: Value, tensor2: Value, value: Operand = 1) -> Value:
    return joint(c, "Add", self, _scaled(c, joint(c, "Mul", tensor1, tensor2), value))


@converts("aten.addcdiv.default")
def addcdiv(c: Builder, self: Value, tensor1: Value, tensor2: Value, value: Operand = 1) -> Value:
    return joint(c, "Add", self, _scaled(c, joint(c, "Div", tensor1, tensor2), value))


@converts("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(c: Builder, self: Value, end: Value, weight: Operand) -> Value:
    return joint(c, "Add", self, joint(c, "Mul", joint(c, "Sub", end, self), weight))


# -- comparisons

_COMPARISONS = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}


def compare(c: Builder, op: str, a: Operand, b: Operand) -> Value:
    """Both operands cast to the type that torch compares them in."""
    dtype = c.result_dtype(a, b)
    if dtype == DType.BOOL and op != "Equal":
        dtype = DType.UINT8
    return c.emit(op, c.operand(a, dtype), c.operand(b, dtype))


def _comparison(op: str) -> Callable[[Builder, Operand, Operand], Value]:
    def convert(c: Builder, self: Operand, other: Operand) -> Value:
        return compare(c, op, self, other)

    return convert


for _name, _op in _COMPARISONS.items():
    converts(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_comparison(_op))
for _name, _op in {"less": "Less", "greater": "Greater", "less_equal": "LessOrEqual"}.items():
    converts(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_comparison(_op))
converts("aten.greater_equal.Tensor", "aten.greater_equal.Scalar")(_comparison("GreaterOrEqual"))


@converts("aten.ne.Tensor", "aten.ne.Scalar", "aten.not_equal.Tensor", "aten.not_equal.Scalar")
def not_equal(c: Builder, self: Operand, other: Operand) -> Value:
    return c.emit("Not", compare(c, "Equal", self, other))


# -- logic

_LOGIC = {"and": "And", "or": "Or", "xor": "Xor"}


def truth(c: Builder, item: Operand) -> Value:
    """Whether the elements differ from zero."""
    return c.operand(item, DType.BOOL)


def _logical(op: str) -> Callable[[Builder, Value, Value], Value]:
    def convert(c: Builder, self: Value, other: Value) -> Value:
        return c.emit(op, truth(c, self), truth(c, other))

    return convert


def _bitwise(name: str) -> Callable[[Builder, Operand, Operand], Value]:
    def convert(c: Builder, self: Operand, other: Operand) -> Value:
        prefix = "" if c.result.dtype == DType.BOOL else "Bitwise"
        return joint(c, prefix + _LOGIC[name], self, other)

    return convert


for _name, _op in _LOGIC.items():
    converts(f"aten.logical_{_name}.default")(_logical(_op))
    converts(
        f"aten.bitwise_{_name}.Tensor", f"aten.bitwise_{_name}.Scalar",
        f"aten.__{_name}__.Tensor", f"aten.__{_name}__.Scalar",
    )(_bitwise(_name))  # fmt: skip


@converts("aten.logical_not.default")
def logical_not(c: Builder, self: Value) -> Value:
    return c.emit("Not", truth(c, self))


@converts("aten.bitwise_not.default")
def bitwise_not(c: Builder, self: Value) -> Value:
    return c.emit("Not" if self.dtype == DType.BOOL else "BitwiseNot", self)


# -- selection


@converts("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(c: Builder, condition: Value, self: Operand, other: Operand) -> Value:
    dtype = c.result.dtype
    return c.emit("Where", truth(c, condition), c.operand(self, dtype), c.operand(other, dtype))


@converts("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(c: Builder, self: Value, mask: Value, value: Operand) -> Value:
    return c.emit("Where", truth(c, mask), c.operand(value, self.dtype), self)


@converts("aten.clamp.default", "aten.clip.default", "aten.clamp.Tensor", "aten.clip.Tensor")
def clamp(c: Builder, self: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    dtype = c.result.dtype
    x = c.cast(self, dtype)
    if any(isinstance(limit, Value) and limit.rank != 0 for limit in (min, max)):
        x = x if min is None else c.emit("Max", x, c.operand(min, dtype))
        return x if max is None else c.emit("Min", x, c.operand(max, dtype))
    low = None if min is None else c.operand(min, dtype)
    high = None if max is None else c.operand(max, dtype)
    return x if low is None and high is None else c.emit("Clip", x, low, high)


@converts("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(c: Builder, self: Value, min: Operand) -> Value:
    return clamp(c, self, min)


@converts("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(c: Builder, self: Value, max: Operand) -> Value:
    return clamp(c, self, None, max)


@converts("aten.nan_to_num.default")
def nan_to_num(
    c: Builder, self: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    require(self.dtype.is_float, "integers are never NaN")
    largest = float(_largest(self.dtype))
    x = c.emit("Where", c.emit("IsNaN", self), c.scalar(nan or 0.0, self.dtype), self)
    high, low = largest if posinf is None else posinf, -largest if neginf is None else neginf
    x = c.emit("Where", c.emit("IsInf", x, detect_negative=0), c.scalar(high, self.dtype), x)
    return c.emit("Where", c.emit("IsInf", x, detect_positive=0), c.scalar(low, self.dtype), x)


def _largest(dtype: DType) -> float:
    import torch

    return torch.finfo(dtype.torch).max
