"""Layers whose weights are stored as integers."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.affine import batch_norm, of_batch_norm
from graphopt.passes.fuse.constants import FoldingRule
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Var


class QuantizedConvBatchNorm(FoldingRule):
    """BN of a convolution with quantized weights is one with other scales and another bias; the integers stay.

    Contract: exact; folded in double precision. Conditions: BN does not train and multiplies with positive numbers
    only; weights are dequantized with a scale for all or one for each output channel; all are constants; the bias is
    made of floats; a transposed convolution has no groups.
    """

    def pattern(
        self, op: Patterns, x: Var, q: Var, s: Var, gamma: Var, beta: Var, mean: Var, var: Var, z: Any = None,
        b: Any = None,
    ) -> Pattern:  # fmt: skip
        weight = op.DequantizeLinear(op.constant(q), op.constant(s), op.optional(op.constant(z))).named("dequantize")
        conv = op("Conv|ConvTranspose", x, weight, op.optional(op.constant(b))).named("conv")
        return batch_norm(op, conv, gamma, beta, mean, var)

    def rewrite(self, op: Builder, m: Match) -> Result:
        conv, weight = m.node("conv"), m.node("dequantize")
        affine, axis = of_batch_norm(m.node("bn")), 0 if conv.op == "Conv" else 1
        if affine.scale is None or affine.shift is None or bool((affine.scale <= 0).any()):
            return m.fail("it multiplies with numbers that are not positive")
        if attribute(weight, "block_size") or (conv.op == "ConvTranspose" and attribute(conv, "group") != 1):
            return m.fail("the weights are quantized in blocks, or per group")
        own, count = m.data("s").double().reshape(-1), len(affine.scale)
        if m["s"].dtype is not m.root.output.dtype:
            return m.fail("the scales are of another type than the result")
        if own.numel() not in (1, count) or (
            own.numel() > 1 and attribute(weight, "axis") % (m["q"].rank or 1) != axis
        ):
            return m.fail("the scales do not go with the output channels")
        scale = self.refold(op, m, m["s"], own.expand(count) * affine.scale)
        old = m.get("b")
        bias = affine.shift if old is None else m.data("b").double().reshape(-1) * affine.scale + affine.shift
        shift = op.constant(bias.to(m["s"].dtype.torch)) if old is None else self.refold(op, m, old, bias)
        if isinstance(scale, Failure) or isinstance(shift, Failure):
            return scale if isinstance(scale, Failure) else shift
        op.in_module(conv.origin.module)
        stored = op.like(weight, m["q"], scale, _for_each(op, m.get("z"), count), axis=axis)
        return op.like(conv, m["x"], stored, shift)


def _for_each(op: Builder, zero: Value | None, count: int) -> Value | None:
    """A zero point for each of `count` channels."""
    if zero is None or zero.data is None or zero.data.numel() == count:
        return zero
    data: torch.Tensor = zero.data.reshape(-1)[:1].repeat(count)
    return op.constant(data, dtype=zero.dtype)
