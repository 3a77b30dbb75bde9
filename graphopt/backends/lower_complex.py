"""Arithmetic and views on complex tensors, as real and imaginary parts in a last dimension of two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.backends.lower import COMPLEX, Complex, NoLowering, lowers, lowers_complex, rank_of, real, scalar
from graphopt.ir import DType, Node, Value
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.ops.record import attribute

Operand = Value | Complex


def join(b: Builder, re: Value, im: Value) -> Complex:
    """A complex tensor of two real ones."""
    return Complex(b.Concat(b.Unsqueeze(re, [-1]), b.Unsqueeze(im, [-1]), axis=-1))


def split(b: Builder, x: Complex) -> tuple[Value, Value]:
    """Real and imaginary part."""
    return b.Gather(x.parts, 0, axis=-1), b.Gather(x.parts, 1, axis=-1)


def promoted(b: Builder, x: Operand) -> Complex:
    """A real tensor with an imaginary part of zero; a complex one as it is."""
    if isinstance(x, Complex):
        return x
    column = b.Unsqueeze(x, [-1])
    return Complex(b.Pad(column, [0] * (2 * rank_of(column) - 1) + [1]))


def conjugate(b: Builder, x: Complex) -> Complex:
    """The complex conjugate."""
    return Complex(b.Mul(x.parts, b.constant(torch.tensor([1.0, -1.0]), like=x.parts)))


def multiply(b: Builder, x: Operand, y: Operand, product: Callable[[Value, Value], Value] | None = None) -> Complex:
    """``x * y``, of which one is complex; `product` is what to multiply real tensors by, elementwise by default."""
    times = product or b.Mul
    if not isinstance(x, Complex):
        return join(b, *(times(x, part) for part in split(b, promoted(b, y))))
    if not isinstance(y, Complex):
        return join(b, *(times(part, y) for part in split(b, x)))
    (a, c), (d, e) = split(b, x), split(b, y)
    return join(b, b.Sub(times(a, d), times(c, e)), b.Add(times(a, e), times(c, d)))


def magnitude(b: Builder, x: Complex) -> Value:
    """The absolute value."""
    return b.ReduceL2(x.parts, [-1], keepdims=0)


# -- torch operators


@lowers("view_as_real", "view_as_real_copy")
def _view_as_real(b: Builder, self: Complex) -> Value:
    return self.parts


@lowers("view_as_complex", "view_as_complex_copy")
def _view_as_complex(b: Builder, self: Value) -> Complex:
    return Complex(real(self))


@lowers("real")
def _real(b: Builder, self: Operand) -> Value:
    return split(b, self)[0] if isinstance(self, Complex) else self


@lowers("imag")
def _imag(b: Builder, self: Complex) -> Value:
    return split(b, self)[1]


@lowers("complex")
def _complex(b: Builder, real: Value, imag: Value) -> Complex:
    shape = b.Shape(b.Add(real, imag))
    return join(b, b.Expand(real, shape), b.Expand(imag, shape))


@lowers("polar")
def _polar(b: Builder, abs: Value, angle: Value) -> Complex:
    return join(b, b.Mul(abs, b.Cos(angle)), b.Mul(abs, b.Sin(angle)))


@lowers("conj", "_conj", "conj_physical", "_conj_physical", "_conj_copy")
def _conj(b: Builder, self: Operand) -> Operand:
    return conjugate(b, self) if isinstance(self, Complex) else self


@lowers("resolve_conj", "resolve_neg", "_neg_view", "clone", "contiguous", "alias", "detach")
def _same(b: Builder, self: Operand, **_: Any) -> Operand:
    return self


@lowers("abs")
def _absolute(b: Builder, self: Complex) -> Value:
    return magnitude(b, self)


@lowers("angle")
def _angle(b: Builder, self: Operand) -> Value:
    if isinstance(self, Complex):
        re, im = split(b, self)
        return atan2(b, im, re)
    x = real(self)
    return b.Where(b.Less(x, scalar(b, 0, x)), scalar(b, math.pi, x), b.Mul(x, scalar(b, 0, x)))


def atan2(b: Builder, y: Value, x: Value) -> Value:
    """The angle of the point (x, y) in (-pi, pi]; zero at the origin."""
    zero, pi = scalar(b, 0, x), scalar(b, math.pi, x)
    height, width = b.Abs(y), b.Abs(x)
    steep = b.Greater(height, width)
    larger = b.Where(steep, height, width)
    safe = b.Where(b.Equal(larger, zero), scalar(b, 1, x), larger)
    angle = b.Atan(b.Div(b.Where(steep, width, height), safe))
    angle = b.Where(steep, b.Sub(scalar(b, math.pi / 2, x), angle), angle)
    angle = b.Where(b.Less(x, zero), b.Sub(pi, angle), angle)
    below = b.Or(b.Less(y, zero), b.Less(b.Reciprocal(y), zero))  # the reciprocal tells minus zero
    return b.Where(below, b.Neg(angle), angle)


# -- standard operators


@lowers_complex("Identity")
def _identity(b: Builder, node: Node, x: Sequence[Any]) -> Any:
    return x[0]


@lowers_complex("Neg")
def _negative(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    return Complex(b.Neg(x[0].parts))


@lowers_complex("Abs")
def _abs(b: Builder, node: Node, x: Sequence[Any]) -> Value:
    return magnitude(b, x[0])


@lowers_complex("Add", "Sub")
def _sum(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    return Complex(b(node.op, promoted(b, x[0]).parts, promoted(b, x[1]).parts))


@lowers_complex("Mul", "MatMul")
def _product(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    return multiply(b, x[0], x[1], b.MatMul if node.op == "MatMul" else b.Mul)


@lowers_complex("Einsum")
def _einsum(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    if len(x) != 2:
        raise NoLowering("other than two operands")
    equation = str(attribute(node, "equation"))

    return multiply(b, x[0], x[1], lambda a, c: b.Einsum(a, c, equation=equation))


@lowers_complex("Div")
def _quotient(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    over, under = x
    if not isinstance(under, Complex):
        return Complex(b.Div(over.parts, b.Unsqueeze(under, [-1])))
    square = b.ReduceSumSquare(under.parts, [-1], keepdims=1)
    return Complex(b.Div(multiply(b, over, conjugate(b, under)).parts, square))


@lowers_complex("Reciprocal")
def _reciprocal(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    square = b.ReduceSumSquare(x[0].parts, [-1], keepdims=1)
    return Complex(b.Div(conjugate(b, x[0]).parts, square))


@lowers_complex("Exp")
def _exp(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    re, im = split(b, x[0])
    return _polar(b, b.Exp(re), im)


@lowers_complex("Where")
def _where(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    chosen, other = promoted(b, x[1]), promoted(b, x[2])
    return Complex(b.Where(b.Unsqueeze(x[0], [-1]), chosen.parts, other.parts))


@lowers_complex("Cast")
def _cast(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    if node.output.dtype not in COMPLEX:
        raise NoLowering("a cast of a complex tensor to a real one")
    return Complex(b.Cast(promoted(b, x[0]).parts, to=int(DType.of(node.output.dtype.torch.to_real()))))


@lowers_complex("Shape")
def _shape(b: Builder, node: Node, x: Sequence[Any]) -> Value:
    rank = x[0].rank
    start, end = attribute(node, "start"), node.attributes.get("end")
    bounds = [max(at + rank, 0) if at < 0 else min(at, rank) for at in (start, rank if end is None else end)]
    return b.Shape(x[0].parts, start=bounds[0], end=bounds[1])


@lowers_complex("Reshape", "Expand")
def _to_shape(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    return Complex(b.like(node, x[0].parts, b.Concat(x[1], b.constant([2]), axis=0)))


@lowers_complex("Flatten")
def _flatten(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    axis = int(attribute(node, "axis"))
    flat = b.Flatten(x[0].parts, axis=axis + x[0].rank if axis < 0 else axis)
    return Complex(b.Reshape(flat, [0, -1, 2]))


@lowers_complex("Transpose")
def _transpose(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    perm = node.attributes.get("perm") or tuple(reversed(range(x[0].rank)))
    return Complex(b.Transpose(x[0].parts, perm=(*perm, x[0].rank)))


@lowers_complex("Concat", "Gather")
def _along(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    rank = next(each.rank for each in x if isinstance(each, Complex))
    parts = [promoted(b, each).parts if node.op == "Concat" or i == 0 else each for i, each in enumerate(x)]
    return Complex(b.like(node, *parts, axis=int(attribute(node, "axis")) % rank))


@lowers_complex("Split")
def _split(b: Builder, node: Node, x: Sequence[Any]) -> tuple[Complex, ...]:
    keywords = {**node.attributes, "axis": int(attribute(node, "axis")) % x[0].rank}
    return tuple(map(Complex, b("Split", x[0].parts, *x[1:], outputs=len(node.outputs), **keywords)))


@lowers_complex("Slice")
def _slice(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    parts, starts, ends, axes, steps = (*x, None, None)[:5]
    return Complex(b.Slice(parts.parts, starts, ends, _axes(axes, parts.rank), steps))


@lowers_complex("Squeeze", "ReduceSum", "ReduceMean")
def _at_axes(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    if node.op == "Squeeze" and node.input(1) is None:
        raise NoLowering("which dimensions go is not said")
    axes = list(range(x[0].rank)) if node.input(1) is None else _axes(node.input(1), x[0].rank)
    return Complex(b.like(node, x[0].parts, axes))


@lowers_complex("Unsqueeze")
def _unsqueeze(b: Builder, node: Node, x: Sequence[Any]) -> Complex:
    rank = x[0].rank + len(static_integers(node.input(1)) or ())
    return Complex(b.Unsqueeze(x[0].parts, _axes(node.input(1), rank)))


def _axes(value: Value | None, rank: int) -> list[int]:
    """Constant axes, counted from the front: the parts come behind."""
    axes = static_integers(value)
    if axes is None:
        raise NoLowering("axes depend on the input")
    return [axis % rank for axis in axes]


__all__ = ["atan2", "conjugate", "join", "magnitude", "multiply", "promoted", "split"]
