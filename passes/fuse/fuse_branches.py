"""Branches of one input that are added up again: one convolution (re-parameterisation, as of RepVGG and MobileOne)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ops.builder import Builder
from graphopt.passes.fuse.affine import Affine, batch_norm, of_arithmetic, of_batch_norm
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.fuse.kernels import Window, attributes_of, dirac, laid_over, regrouped, union, windows
from graphopt.passes.fuse.linear import Linear, LinearRule
from graphopt.pipeline import register
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Var


class _Branches(LinearRule):
    """Adds the numbers of a second convolution to those of the first."""

    recursive = True

    def add(
        self, op: Builder, m: Match, layer: Linear, weight: torch.Tensor, bias: torch.Tensor, group: int,
        own: list[Window] | None,
    ) -> Result:  # fmt: skip
        """The convolution `layer`, plus one of the given weight, bias, groups and windows."""
        mine = windows(layer.node, layer.numbers().shape[2:])
        if mine is None or own is None:
            return m.fail("the pads are chosen from the size of the input")
        both = [union(a, b) for a, b in zip(mine, own, strict=True)]
        whole = [each for each in both if each is not None]
        if len(whole) < len(both):
            return m.fail("the branches move over the input in different ways")
        common = math.gcd(layer.group, group)
        first = laid_over(regrouped(layer.numbers(), layer.group, common), mine, whole)
        total = first + laid_over(regrouped(weight, group, common), own, whole)
        if total.numel() > layer.numbers().numel() + weight.numel():
            return m.fail("one convolution would need more multiplications than the two")
        before = layer.bias_vector()
        assert before is not None, "Linear.of makes sure of that"
        return self.rebuild(op, m, layer, m["x"], total, before + bias, **attributes_of(whole, common))


class ConvPlusConv(_Branches):
    """conv(x) + conv'(x) is one conv, whose kernel holds both.

    Contract: exact; added in double precision. Conditions: weights and biases are constants that nothing else reads;
    both have the same strides, the same outputs and, where it matters, dilations; the one kernel has no more weights
    than the two.
    """

    def pattern(self, op: Patterns, x: Var, w: Var, v: Var, b: Any = None, a: Any = None) -> Pattern:
        first, second = (
            op.Conv(x, op.constant(weight), op.optional(op.constant(bias))).named(name)
            for weight, bias, name in ((w, b, "linear"), (v, a, "second"))
        )
        return op.Add(first, second)

    def rewrite(self, op: Builder, m: Match) -> Result:
        layers = [Linear.of(m), Linear.of(m, "v", "a", "second")]
        failed = next((layer for layer in layers if isinstance(layer, Failure)), None)
        if failed is not None:
            return failed
        first, second = sorted(
            (layer for layer in layers if isinstance(layer, Linear)), key=lambda layer: -layer.numbers()[0, 0].numel()
        )
        if first.node is second.node:
            return m.fail("it is one convolution, taken twice")
        if first.channels_out != second.channels_out:
            return m.fail("the channels of one are broadcast")
        bias = second.bias_vector()
        assert bias is not None, "Linear.of makes sure of that"
        own = windows(second.node, second.numbers().shape[2:])
        return self.add(op, m, first, second.numbers(), bias, second.group, own)


class ConvPlusIdentity(_Branches):
    """conv(x) + x, conv(x) + BN(x), conv(x) + x * c is one conv.

    Contract: exact; added in double precision. Conditions: as for ``conv-plus-conv``; the convolution has a stride of 1
    and gives as many channels, and as large ones, as it takes; BN does not train; c is a number, or one per channel.
    """

    def pattern(
        self, op: Patterns, x: Var, w: Var, s: Var, beta: Var, mean: Var, var: Var, c: Var, b: Any = None
    ) -> Pattern:
        conv = op.Conv(x, op.constant(w), op.optional(op.constant(b))).named("linear")
        scaled = op.any(op.Mul(x, op.constant(c)).named("affine"), op.Div(x, op.constant(c)).named("affine"))
        return op.Add(conv, op.any(batch_norm(op, x, s, beta, mean, var), scaled, x))

    def rewrite(self, op: Builder, m: Match) -> Result:
        layer = Linear.of(m)
        if isinstance(layer, Failure):
            return layer
        count, rank = layer.channels_out, layer.numbers().dim() - 2
        if layer.channels_in != count or m["x"].rank != rank + 2:
            return m.fail("it gives another number of channels than it takes")
        affine: Affine | Failure = Affine()
        if m.has("bn"):
            affine = of_batch_norm(m.node("bn"))
        elif m.has("affine"):
            affine = of_arithmetic(m, m["c"], 1, count)
        if isinstance(affine, Failure):
            return affine
        factors = torch.ones(count, dtype=torch.float64) if affine.scale is None else affine.scale
        bias = torch.zeros(count, dtype=torch.float64) if affine.shift is None else affine.shift
        weight = dirac(factors, layer.group, rank)
        return self.add(op, m, layer, weight, bias, layer.group, [Window(1)] * rank)


@register("fuse-branches")
@dataclass(frozen=True)
class FuseBranches(FusePass):
    """Add up convolutions of one input, and its BatchNormalization or itself, into a single convolution.

    The result is the convolution with the largest kernel, with other numbers; the others' parameters go.
    """

    rules = (ConvPlusConv, ConvPlusIdentity)
    looks_for = frozenset({"Conv"})
