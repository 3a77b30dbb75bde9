"""What stands beside a BatchNormalization with no linear layer to go into."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Value
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.affine import Affine, batch_norm, of_arithmetic, of_batch_norm, scaling, shifting
from graphopt.passes.fuse.constants import FoldingRule, FusePass
from graphopt.pipeline import register
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Var


class _IntoBatchNorm(FoldingRule):
    """Changes scale and bias of the node ``bn``: its statistics stay as they are."""

    def absorb(self, op: Builder, m: Match, affine: Affine) -> Result:
        """BatchNormalization with `affine` applied to its output."""
        bn = m.node("bn")
        gamma, beta = (bn.operand(i) for i in (1, 2))
        own = [value.data.double() for value in (gamma, beta) if value.data is not None]
        if len(own) < 2:
            return m.fail("its vectors hold no numbers")
        scale = own[0] if affine.scale is None else own[0] * affine.scale
        bias = own[1] if affine.scale is None else own[1] * affine.scale
        bias = bias if affine.shift is None else bias + affine.shift
        new: list[Value] = []
        for value, data in ((gamma, scale), (beta, bias)):
            made = self.refold(op, m, value, data)
            if isinstance(made, Failure):
                return made
            new.append(made)
        op.in_module(bn.origin.module)
        return op.like(bn, m["x"], *new, *bn.inputs[3:])


class BatchNormBatchNorm(_IntoBatchNorm):
    """BN(BN(x)) is the first one with another scale and bias.

    Contract: exact. Conditions: all vectors are constants, and neither BN trains.
    """

    def pattern(
        self, op: Patterns, x: Var, s: Var, b: Var, m: Var, v: Var, s2: Var, b2: Var, m2: Var, v2: Var
    ) -> Pattern:
        return batch_norm(op, batch_norm(op, x, s, b, m, v), s2, b2, m2, v2, name="outer")

    def rewrite(self, op: Builder, m: Match) -> Result:
        return self.absorb(op, m, of_batch_norm(m.node("outer")))


class _Arithmetic(_IntoBatchNorm):
    def rewrite(self, op: Builder, m: Match) -> Result:
        channels = m["s"].shape
        if channels is None or not isinstance(channels[0], int):
            return m.fail("the number of channels is not known")
        affine = of_arithmetic(m, m["c"], 1, channels[0])
        return affine if isinstance(affine, Failure) else self.absorb(op, m, affine)


class BatchNormScale(_Arithmetic):
    """BN(x) * c, BN(x) / c is a BN. Contract: exact. Condition: c is a constant that varies along the channels only."""

    def pattern(self, op: Patterns, x: Var, s: Var, b: Var, mean: Var, var: Var, c: Var) -> Pattern:
        return scaling(op, batch_norm(op, x, s, b, mean, var), c)


class BatchNormShift(_Arithmetic):
    """BN(x) + c, BN(x) - c, c - BN(x) is a BN. Contract and condition: as for `BatchNormScale`."""

    def pattern(self, op: Patterns, x: Var, s: Var, b: Var, mean: Var, var: Var, c: Var) -> Pattern:
        return shifting(op, batch_norm(op, x, s, b, mean, var), c)


@register("fuse-bn-chain")
@dataclass(frozen=True)
class FuseBatchNormChain(FusePass):
    """Fold a BatchNormalization, or a constant factor or term, into the BatchNormalization before it."""

    rules = (BatchNormBatchNorm, BatchNormScale, BatchNormShift)
    looks_for = frozenset({"BatchNormalization"})
