"""Linear layers behind one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ops.builder import Builder
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.fuse.linear import Linear, LinearRule, product
from graphopt.pipeline import register
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Var


class LinearLinear(LinearRule):
    """A linear layer of a linear layer is one linear layer.

    Contract: exact; multiplied in double precision. Conditions: constant weights and biases; the one layer has no more
    weights (and so needs no more multiplications) than the two, which a bottleneck between them would have undercut.
    """

    def pattern(self, op: Patterns, x: Var, v: Var, w: Var, a: Any = None, b: Any = None) -> Pattern:
        return product(op, product(op, x, v, a, "first"), w, b)

    def rewrite(self, op: Builder, m: Match) -> Result:
        first, second = Linear.of(m, "v", "a", "first"), Linear.of(m)
        if isinstance(first, Failure):
            return first
        if isinstance(second, Failure):
            return second
        before = first.channels_in * first.channels_out + second.channels_in * second.channels_out
        if first.channels_in * second.channels_out > before:
            return m.fail("one layer would need more multiplications than the two")
        inner, outer = _matrix(first), _matrix(second)
        shift, bias = first.bias_vector(), second.bias_vector()
        assert shift is not None and bias is not None, "Linear.of makes sure of that"
        matrix = inner @ outer
        stored = matrix.t() if second.transposed else matrix
        return self.rebuild(op, m, second, m["x"], stored, shift @ outer + bias)


def _matrix(layer: Linear) -> torch.Tensor:
    """The weight as float64 [in, out]."""
    numbers = layer.numbers()
    return numbers.t() if layer.transposed else numbers


@register("fuse-linear")
@dataclass(frozen=True)
class FuseLinear(FusePass):
    """Multiply the weights of linear layers that follow one another with nothing in between, where that saves work.

    The result is the second layer, with other numbers; the first one's parameters go.
    """

    rules = (LinearLinear,)
