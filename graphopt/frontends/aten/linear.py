"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.frontends.aten.builder import Builder, Operand, plain, rank_of, require
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value


@converts("aten.linear.default")
def linear(c: Builder, input: Value, weight: Value, bias: Value | None = None) -> Value:
    """The weight stays the module's own [out, in]."""
    if rank_of(weight) == 1:
        y = c.emit("MatMul", input, weight)
        return y if bias is None else c.emit("Add", y, bias)
    if rank_of(input) == 2:
        return c.emit("Gemm", input, weight, bias, transB=1)
    y = c.emit("MatMul", input, c.transpose(weight, [1, 0]))
    return y if bias is None else c.emit("Add", y, bias)


@converts("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default",
          "aten.vdot.default", "aten.linalg_matmul.default")  # fmt: skip
def matmul(c: Builder, self: Value, other: Value) -> Value:
    return c.emit("MatMul", self, other)


@converts("aten.inner.default")
def inner(c: Builder, self: Value, other: Value) -> Value:
    """The last dimensions of both meet."""
    if not rank_of(self) or not rank_of(other):
        return c.emit("Mul", self, other)
    require(rank_of(other) <= 2, "an inner product with more than a matrix")
    return c.emit("MatMul", self, c.transpose(other, (1, 0)) if rank_of(other) == 2 else other)


@converts("aten.addmm.default")
def addmm(c: Builder, self: Value, mat1: Value, mat2: Value, beta: Operand = 1, alpha: Operand = 1) -> Value:
    if self.dtype.is_float:
        factors = {name: float(plain(f)) for name, f in (("alpha", alpha), ("beta", beta)) if plain(f) != 1}
        return c.emit("Gemm", mat1, mat2, self, **factors)
    return _combined(c, self, mat1, mat2, beta, alpha)


@converts("aten.baddbmm.default", "aten.addmv.default")
def baddbmm(c: Builder, self: Value, batch1: Value, batch2: Value, beta: Operand = 1, alpha: Operand = 1) -> Value:
    return _combined(c, self, batch1, batch2, beta, alpha)


@converts("aten.addbmm.default")
def addbmm(c: Builder, self: Value, batch1: Value, batch2: Value, beta: Operand = 1, alpha: Operand = 1) -> Value:
    total = c.emit("ReduceSum", c.emit("MatMul", batch1, batch2), c.ints([0]), keepdims=0)
    return c.emit("Add", _times(c, self, beta), _times(c, total, alpha))


def _combined(c: Builder, bias: Value, a: Value, b: Value, beta: Operand, alpha: Operand) -> Value:
    product = _times(c, c.emit("MatMul", a, b), alpha)
    if not isinstance(beta, Value) and beta == 0:
        return product
    return c.emit("Add", _times(c, bias, beta), product)


def _times(c: Builder, x: Value, factor: Operand) -> Value:
    if not isinstance(factor, Value) and factor == 1:
        return x
    return c.emit("Mul", x, c.operand(factor, c.result.dtype))


@converts("aten.einsum.default")
def einsum(c: Builder, equation: str, tensors: Sequence[Value], path: Sequence[int] | None = None) -> Value:
    require(all(letter.isascii() for letter in equation), "an equation with odd letters")
    return c.emit("Einsum", *tensors, equation=equation.replace(" ", ""))


@converts("aten.outer.default", "aten.ger.default")
def outer(c: Builder, self: Value, vec2: Value) -> Value:
    dtype = c.result.dtype
    return c.emit("Mul", c.unsqueeze(c.cast(self, dtype), 1), c.cast(vec2, dtype))


@converts("aten.tensordot.default")
def tensordot(c: Builder, self: Value, other: Value, dims_self: Sequence[int], dims_other: Sequence[int]) -> Value:
    a, b = rank_of(self), rank_of(other)
    require(a + b <= 26, "more dimensions than letters")
    letters = [chr(ord("a") + i) for i in range(a + b)]
    left, right = letters[:a], letters[a:]
    summed = set()
    for i, j in zip(dims_self, dims_other, strict=True):
        right[j % b] = left[i % a]
        summed.add(left[i % a])
    kept = [letter for letter in left + right if letter not in summed]
    return c.emit("Einsum", self, other, equation=f"{''.join(left)},{''.join(right)}->{''.join(kept)}")


@converts("aten.bilinear.default")
def bilinear(c: Builder, input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Value:
    y = c.emit("Einsum", input1, weight, input2, equation="...a,oab,...b->...o")
    return y if bias is None else c.emit("Add", y, bias)


@converts("aten.det.default", "aten.linalg_det.default")
def det(c: Builder, self: Value) -> Value:
    require(self.dtype != DType.BOOL, "the determinant of truth values")
    return c.emit("Det", self)
