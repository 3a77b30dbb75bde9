"""Matrix products with a bias."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Node, Value
from graphopt.ir import dims as D
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.constants import FusePass
from graphopt.pipeline import register
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var


class MatMulAdd(Rule):
    """MatMul(a, w) + c, and MatMul(a, Transpose(w)) + c, is a Gemm.

    Contract: exact. Conditions: floats; a and w have two dimensions; c broadcasts to the product without stretching it,
    and is a constant if w is one: with a computed c the layer would be none that other passes and torch know.
    """

    def pattern(self, op: Patterns, a: Var, w: Var, c: Var) -> Pattern:
        factor = op.any(op.Transpose(w, perm=(1, 0)).named("view"), w)
        return op.Add(op.MatMul(a, factor).named("matmul").when(_is_float_matrix), c)

    def rewrite(self, op: Builder, m: Match) -> Result:
        product = m.node("matmul").output
        if m["w"].is_constant and not m["c"].is_constant:
            return m.fail("what is added to the linear layer is no bias")
        if not _fits(m["c"], product):
            return m.fail("what is added stretches the product")
        op.in_module(m.node("matmul").origin.module)
        return op.Gemm(m["a"], m["w"], m["c"], transB=1 if m.has("view") else None)


def _is_float_matrix(matmul: Node) -> bool:
    return matmul.output.dtype.is_float and all(matmul.operand(i).rank == 2 for i in (0, 1))


def _fits(c: Value, product: Value) -> bool:
    if c.shape is None or product.shape is None or len(c.shape) > 2:
        return False
    aligned = product.shape[2 - len(c.shape) :]
    return all(extent == 1 or D.same(extent, dim) for extent, dim in zip(c.shape, aligned, strict=True))


@register("fuse-gemm")
@dataclass(frozen=True)
class FuseGemm(FusePass):
    """Make a Gemm of a matrix product and what is added to it, where both are matrices."""

    rules = (MatMulAdd,)
    looks_for = frozenset({"MatMul"})
