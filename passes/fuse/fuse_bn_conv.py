"""BatchNormalization in front of a linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.ops.builder import Builder
from graphopt.passes.fuse.affine import batch_norm, of_batch_norm
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.fuse.linear import Linear, LinearRule, convolution, product
from graphopt.pipeline import register
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Var


class BatchNormConv(LinearRule):
    """conv(BN(x)) is a conv with scaled weights and a shifted bias.

    Contract: exact. Conditions: as for ``conv-batch-norm``; and BN does not shift, or the convolution does not pad (the
    zeros that it pads with would have to be shifted, too) and is not transposed.
    """

    def pattern(
        self, op: Patterns, x: Var, w: Var, scale: Var, bias: Var, mean: Var, var: Var, b: Any = None
    ) -> Pattern:
        return convolution(op, batch_norm(op, x, scale, bias, mean, var), w, b)

    def rewrite(self, op: Builder, m: Match) -> Result:
        layer = Linear.of(m)
        return layer if isinstance(layer, Failure) else self.before(op, m, layer, of_batch_norm(m.node("bn")))


class BatchNormLinear(LinearRule):
    """A matrix product of BN(x) is one with scaled weights and a shifted bias. Condition: x has two dimensions."""

    def pattern(
        self, op: Patterns, x: Var, w: Var, scale: Var, bias: Var, mean: Var, var: Var, b: Any = None
    ) -> Pattern:
        return product(op, batch_norm(op, x, scale, bias, mean, var), w, b)

    def rewrite(self, op: Builder, m: Match) -> Result:
        layer = Linear.of(m)
        if isinstance(layer, Failure):
            return layer
        if m["x"].rank != 2:
            return m.fail("BatchNormalization runs over another dimension than the features")
        return self.before(op, m, layer, of_batch_norm(m.node("bn")))


@register("fuse-bn-conv")
@dataclass(frozen=True)
class FuseBatchNormConv(FusePass):
    """Fold an inference-time BatchNormalization into the convolution or linear behind it, where that is exact."""

    rules = (BatchNormConv, BatchNormLinear)
    looks_for = frozenset({"BatchNormalization"})
