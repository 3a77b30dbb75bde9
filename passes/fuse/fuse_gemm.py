"""Matrix products with a bias."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Node, Value
from graphopt.ir import dims as D
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
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


class LinearBetweenViews(Rule):
    """Reshape(Reshape(x) @ w + b), where x has more than two dimensions in between, is a Gemm of matrices in between.

    Contract: exact. Conditions: floats; w is a constant matrix and b a constant vector; nothing else reads what is in
    between; the target of the second Reshape is a constant that holds no zeros.
    """

    def pattern(self, op: Patterns, x: Var, w: Var, b: Var, s: Var, t: Var) -> Pattern:
        product = op.MatMul(op.Reshape(x, s), op.constant(w)).when(_is_float_stack).named("matmul")
        return op.Reshape(op.Add(product, op.constant(b)), op.constant(t))

    def rewrite(self, op: Builder, m: Match) -> Result:
        matmul, w, b, target = m.node("matmul"), m["w"], m["b"], static_integers(m["t"])
        if w.shape is None or w.rank != 2 or b.shape != (w.shape[1],):
            return m.fail("the weight is no matrix, or the bias no vector")
        if target is None or 0 in target:
            return m.fail("the target stands for dimensions of what goes")
        if not isinstance(w.shape[0], int) or not w.shape[0]:
            return m.fail("the weight is empty")
        op.in_module(matmul.origin.module)
        rows = op.Reshape(m["x"], [-1, w.shape[0]])
        return op.Reshape(op.Gemm(rows, w, b), target, allowzero=m.root.attributes.get("allowzero"))


def _is_float_stack(matmul: Node) -> bool:
    return matmul.output.dtype.is_float and (matmul.operand(0).rank or 0) > 2


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
    """Make a Gemm of a matrix product and what is added to it, where both are matrices, or are reshaped anyway."""

    rules = (MatMulAdd, LinearBetweenViews)
    looks_for = frozenset({"MatMul"})
