"""What ONNX has the means for, but no operator: log1p, angles, signs of zero, order statistics, shifts of bits."""

from __future__ import annotations

import math

from graphopt.frontends.aten.builder import Builder, Operand, axis_of, rank_of, require
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value


def _is_negative(c: Builder, x: Value) -> Value:
    """The sign bit of a float, which zero has too: its reciprocal tells."""
    zero = c.scalar(0, x.dtype)
    return c.emit("Or", c.emit("Less", x, zero), c.emit("Less", c.emit("Reciprocal", x), zero))


@converts("aten.signbit.default")
def signbit(c: Builder, input: Value) -> Value:
    if input.dtype.is_float:
        return _is_negative(c, input)
    require(input.dtype is not DType.BOOL, "the sign of a bool")
    return c.emit("Less", input, c.scalar(0, input.dtype))


@converts("aten.copysign.Tensor", "aten.copysign.Scalar")
def copysign(c: Builder, input: Value, other: Operand) -> Value:
    dtype = c.result.dtype
    size = c.emit("Abs", c.cast(input, dtype))
    return c.emit("Where", _is_negative(c, c.operand(other, dtype)), c.emit("Neg", size), size)


@converts("aten.atan2.default")
def atan2(c: Builder, input: Value, other: Value) -> Value:
    """The angle of the smaller over the larger side, brought into the right eighth of the circle."""
    dtype = c.result.dtype
    y, x = c.cast(input, dtype), c.cast(other, dtype)
    height, width = c.emit("Abs", y), c.emit("Abs", x)
    ratio = c.emit("Div", c.emit("Min", height, width), c.emit("Max", height, width))
    # Where both are zero, or infinite, the ratio is no number.
    one_or_none = c.cast(c.emit("Greater", height, c.scalar(0, dtype)), dtype)
    ratio = c.emit("Where", c.emit("Equal", height, width), one_or_none, ratio)
    angle = c.emit("Atan", ratio)
    turned = c.emit("Sub", c.scalar(math.pi / 2, dtype), angle)
    angle = c.emit("Where", c.emit("Greater", height, width), turned, angle)
    angle = c.emit("Where", _is_negative(c, x), c.emit("Sub", c.scalar(math.pi, dtype), angle), angle)
    return c.emit("Where", _is_negative(c, y), c.emit("Neg", angle), angle)


@converts("aten.expm1.default")
def expm1(c: Builder, self: Value) -> Value:
    """exp(x) - 1 as 2 sinh(x/2) exp(x/2), which keeps its digits near zero; it is -1 long before sinh overflows."""
    dtype = c.result.dtype
    floor = c.scalar(-10.0 if dtype is DType.FLOAT16 else -40.0, dtype)
    half = c.emit("Mul", c.emit("Max", c.cast(self, dtype), floor), c.scalar(0.5, dtype))
    return c.emit("Mul", c.emit("Mul", c.emit("Sinh", half), c.emit("Exp", half)), c.scalar(2.0, dtype))


@converts("aten.log1p.default")
def log1p(c: Builder, self: Value) -> Value:
    """log(1 + x): up to one 2 atanh(x / (2 + x)), which keeps its digits near zero; each is given what suits it."""
    dtype = c.result.dtype
    x, one, two = c.cast(self, dtype), c.scalar(1.0, dtype), c.scalar(2.0, dtype)
    large = c.emit("Greater", x, one)
    small = c.emit("Where", large, one, x)
    near = c.emit("Mul", c.emit("Atanh", c.emit("Div", small, c.emit("Add", small, two))), two)
    far = c.emit("Log", c.emit("Add", c.emit("Where", large, x, one), one))
    return c.emit("Where", large, far, near)


@converts("aten.round.decimals")
def round_decimals(c: Builder, self: Value, *, decimals: int = 0) -> Value:
    """Rounds to a digit behind the point, or (when negative) before it, as torch does: by scaling there and back."""
    require(self.dtype.is_float, "integers have no decimals")
    if decimals == 0:
        return c.emit("Round", self)
    factor = c.scalar(10.0 ** abs(decimals), self.dtype)
    there, back = ("Mul", "Div") if decimals > 0 else ("Div", "Mul")
    return c.emit(back, c.emit("Round", c.emit(there, self, factor)), factor)


@converts("aten.kthvalue.default")
def kthvalue(c: Builder, input: Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    require(rank_of(input) > 0, "a tensor without dimensions")
    axis = axis_of(input, dim)
    smallest = c.emit_many("TopK", [input, c.ints([k])], 2, axis=axis, largest=0, sorted=1)
    index = c.ints([k - 1]) if keepdim else c.scalar(k - 1, DType.INT64)
    values, indices = (c.emit("Gather", each, index, axis=axis) for each in smallest)
    return values, indices


@converts("aten.__lshift__.Scalar", "aten.bitwise_left_shift.Tensor_Scalar")
def left_shift(c: Builder, input: Value, other: Operand) -> Value:
    return c.emit("Mul", input, _power(c, input, other))


@converts("aten.__rshift__.Scalar", "aten.bitwise_right_shift.Tensor_Scalar")
def right_shift(c: Builder, input: Value, other: Operand) -> Value:
    """Division that rounds down; ONNX's rounds to zero."""
    power = _power(c, input, other)
    return c.emit("Div", c.emit("Sub", input, c.emit("Mod", input, power)), power)


def _power(c: Builder, input: Value, count: Operand) -> Value:
    require(isinstance(count, int) and 0 <= count < input.dtype.bits - 1, "a shift that is no small number")
    require(input.dtype.is_integer and input.dtype is not DType.BOOL, "a shift of what is no integer")
    return c.scalar(1 << int(count), input.dtype)  # type: ignore[arg-type]  # `require` has seen to it that it is an int
