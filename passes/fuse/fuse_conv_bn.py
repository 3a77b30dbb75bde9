"""BatchNormalization behind a linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.ops.builder import Builder
from graphopt.passes.fuse.affine import batch_norm, of_batch_norm
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.fuse.linear import Linear, LinearRule, convolution, product
from graphopt.passes.fuse.quantized import QuantizedConvBatchNorm
from graphopt.pipeline import register
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Var


class ConvBatchNorm(LinearRule):
    """BN(conv(x)) is a conv with scaled weights and a shifted bias.

    Contract: exact; folded in double precision. Conditions: BN does not train; weights, bias and the vectors of BN are
    constants; nothing else reads the convolution's output or, unless it is small, its weight.
    """

    def pattern(
        self, op: Patterns, x: Var, w: Var, scale: Var, bias: Var, mean: Var, var: Var, b: Any = None
    ) -> Pattern:
        return batch_norm(op, convolution(op, x, w, b), scale, bias, mean, var)

    def rewrite(self, op: Builder, m: Match) -> Result:
        layer = Linear.of(m)
        return layer if isinstance(layer, Failure) else self.after(op, m, layer, of_batch_norm(m.node("bn")))


class LinearBatchNorm(LinearRule):
    """BN of a matrix product is one with scaled weights and a shifted bias.

    Contract and conditions: as for `ConvBatchNorm`; and the product has two dimensions, so that the channels of BN are
    the features of the product.
    """

    def pattern(
        self, op: Patterns, x: Var, w: Var, scale: Var, bias: Var, mean: Var, var: Var, b: Any = None
    ) -> Pattern:
        return batch_norm(op, product(op, x, w, b), scale, bias, mean, var)

    def rewrite(self, op: Builder, m: Match) -> Result:
        layer = Linear.of(m)
        if isinstance(layer, Failure):
            return layer
        if layer.axis != 1:
            return m.fail("BatchNormalization runs over another dimension than the features")
        return self.after(op, m, layer, of_batch_norm(m.node("bn")))


@register("fuse-conv-bn")
@dataclass(frozen=True)
class FuseConvBatchNorm(FusePass):
    """Fold an inference-time BatchNormalization into the convolution, transposed convolution or linear before it.

    The weight keeps its name in the ``state_dict``; a bias that was not there before is called ``<module>.bias``; the
    BatchNormalization's parameters and buffers go.
    """

    rules = (ConvBatchNorm, LinearBatchNorm, QuantizedConvBatchNorm)
    looks_for = frozenset({"BatchNormalization"})
