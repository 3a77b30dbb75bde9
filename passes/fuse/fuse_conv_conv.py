"""Convolutions behind one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import Value
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.fuse.kernels import Window, attributes_of, regrouped, windows
from graphopt.passes.fuse.linear import Linear, LinearRule
from graphopt.pipeline import register
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Var


class ConvConv(LinearRule):
    """A convolution of a convolution, one of which sees one element at a time, is one convolution, where that is less.

    Contract: exact; multiplied in double precision. Conditions: along each dimension one of the kernels has extent 1
    and no pads; the first has no bias if the second pads; weights and biases are constants that nothing else reads; the
    one needs neither more weights nor more multiplications than the two. Groups are taken into account, so a depthwise
    convolution goes into a pointwise one where that is cheaper.
    """

    def pattern(self, op: Patterns, x: Var, v: Var, w: Var, a: Any = None, b: Any = None) -> Pattern:
        inner = op.Conv(x, op.constant(v), op.optional(op.constant(a))).named("first")
        return op.Conv(inner, op.constant(w), op.optional(op.constant(b))).named("linear")

    def rewrite(self, op: Builder, m: Match) -> Result:
        first, second = Linear.of(m, "v", "a", "first"), Linear.of(m)
        if isinstance(first, Failure):
            return first
        if isinstance(second, Failure):
            return second
        whole = _composed(first, second)
        if isinstance(whole, str):
            return m.fail(whole)
        shift, bias = first.bias_vector(), second.bias_vector()
        assert shift is not None and bias is not None, "Linear.of makes sure of that"
        if bool(shift.any()) and not second.pads_nothing:
            return m.fail("the second pads with zeros, which the first one's bias does not reach")
        group = math.gcd(first.group, second.group)
        weight = _product(first, second, group)
        if _is_more(weight, first, second):
            return m.fail("one convolution would need more multiplications than the two")
        rows = shift.reshape(group, -1).repeat_interleave(second.channels_out // group, 0)
        summed = regrouped(second.numbers().flatten(2).sum(2), second.group, group)
        total = bias + (summed * rows).sum(1)
        return self.rebuild(op, m, second, m["x"], weight, total, **attributes_of(whole, group))


class PointwiseConvTranspose(LinearRule):
    """A transposed convolution in front of, or behind, a 1x1 convolution is one transposed convolution.

    Contract: exact; multiplied in double precision. Conditions: no groups; the 1x1 convolution neither strides nor
    pads, and in front has no bias; constant weights that nothing else reads; the one needs no more multiplications.
    """

    def pattern(self, op: Patterns, x: Var, v: Var, w: Var, a: Any = None, b: Any = None) -> Pattern:
        weights = [(op.constant(v), op.optional(op.constant(a))), (op.constant(w), op.optional(op.constant(b)))]
        behind = op.Conv(op.ConvTranspose(x, *weights[0], group=1).named("first"), *weights[1], group=1).named("linear")
        front = op.Conv(x, *weights[0], group=1).named("first")
        return op.any(behind, op.ConvTranspose(front, *weights[1], group=1).named("linear"))

    def rewrite(self, op: Builder, m: Match) -> Result:
        first, second = Linear.of(m, "v", "a", "first"), Linear.of(m)
        if isinstance(first, Failure):
            return first
        if isinstance(second, Failure):
            return second
        is_behind = second.node.op == "Conv"
        point, layer = (second, first) if is_behind else (first, second)
        if windows(point.node, point.numbers().shape[2:]) != [Window(1)] * (point.numbers().dim() - 2):
            return m.fail("the convolution sees more than one element, strides or pads")
        matrix, weight = point.numbers().flatten(1), layer.numbers()
        shift, bias = first.bias_vector(), second.bias_vector()
        assert shift is not None and bias is not None, "Linear.of makes sure of that"
        if not is_behind and bool(shift.any()):
            return m.fail("the bias reaches the elements of a transposed convolution unevenly")
        if is_behind:
            made, total = torch.einsum("om,im...->io...", matrix, weight), bias + matrix @ shift
        else:
            made, total = torch.einsum("mi,mo...->io...", matrix, weight), bias
        if made.numel() > weight.numel() + (0 if is_behind else matrix.numel()):
            return m.fail("one convolution would need more multiplications than the two")
        return self.rebuild(op, m, layer, m["x"], made, total)


def _composed(first: Linear, second: Linear) -> list[Window] | str:
    """The windows of both together, or why there are none."""
    inner = windows(first.node, first.numbers().shape[2:])
    outer = windows(second.node, second.numbers().shape[2:])
    if inner is None or outer is None:
        return "the pads are chosen from the size of the input"
    found = []
    for a, b in zip(inner, outer, strict=True):
        if b.extent == 1 and not (b.begin or b.end):
            found.append(Window(a.extent, a.dilation, a.begin, a.end, a.stride * b.stride))
        elif a.extent == 1 and not (a.begin or a.end):
            s = a.stride
            found.append(Window(b.extent, b.dilation * s, b.begin * s, b.end * s, s * b.stride))
        else:
            return "both see more than one element at a time"
    return found


def _product(first: Linear, second: Linear, group: int) -> torch.Tensor:
    """The weight [out, in / group, *kernel] of both together."""
    inner = regrouped(first.numbers(), first.group, group)
    outer = regrouped(second.numbers(), second.group, group)
    left, right = outer.reshape(group, -1, *outer.shape[1:]), inner.reshape(group, -1, *inner.shape[1:])
    kernel = [max(a, b) for a, b in zip(left.shape[3:], right.shape[3:], strict=True)]
    left, right = left.expand(*left.shape[:3], *kernel), right.expand(*right.shape[:3], *kernel)
    product = torch.einsum("gomk,gmik->goik", left.flatten(3), right.flatten(3))
    return product.reshape(-1, inner.shape[1], *kernel)


def _is_more(weight: torch.Tensor, first: Linear, second: Linear) -> bool:
    weights = [layer.numbers().numel() for layer in (first, second)]
    inner, outer = (_positions(layer.node.output) for layer in (first, second))
    ratio = inner / outer if inner and outer else 1.0
    return weight.numel() > sum(weights) or weight.numel() > weights[0] * ratio + weights[1]


def _positions(value: Value) -> int:
    """Elements of a channel; 0 while they are not known."""
    sizes: Sequence[Any] = (value.shape or ())[2:]
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else 0


@register("fuse-conv-conv")
@dataclass(frozen=True)
class FuseConvConv(FusePass):
    """Multiply convolutions that follow one another, one of them 1x1, into one, where that saves work.

    The result is the second layer, or the transposed convolution, with other numbers; the other's parameters go.
    """

    rules = (ConvConv, PointwiseConvTranspose)
    looks_for = frozenset({"Conv"})
