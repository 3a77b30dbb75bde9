"""Chains of constants that are multiplied with, or added."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import Node, Value
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.activations import ends_gelu
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.simplify.conditions import fits
from graphopt.pipeline import register
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var, is_trainable


class _Merge(Rule):
    """One constant for two: in float64, or in the integers' own arithmetic, which wraps around alike."""

    def merge(self, op: Builder, m: Match, combined: torch.Tensor) -> Value | str:
        """The constant that holds `combined`, or why there is none."""
        c, d = m["c"], m["d"]
        if is_trainable(c) or is_trainable(d):
            return "a constant is a trainable parameter"
        if combined.numel() > max(m.data("c").numel(), m.data("d").numel()):
            return "the one constant would be larger than the two"
        made = combined.to(c.dtype.torch)
        if c.dtype.is_float and not fits(made, combined):
            return f"the combined numbers do not fit {c.dtype}"
        return op.constant(made, name=d.name, dtype=d.dtype)


def _number(value: Value) -> torch.Tensor:
    data = value.data
    assert data is not None, "the pattern asks for a constant"
    return data.detach().double() if value.dtype.is_float else data.detach()


class MergeScales(_Merge):
    """x * c * d, x * c / d, x / c * d, x / c / d is x times one constant.

    Contract: exact. Conditions: floats, or two multiplications of integers; the constants combine to one that is no
    larger than either and fits the element type; neither is trained; c is not the half of a Gelu.
    """

    def pattern(self, op: Patterns, x: Var, c: Var, d: Var) -> Pattern:
        inner = op.any(
            op.Mul(x, op.constant(c)).named("inner"), op.Div(x, op.constant(c)).when(_on_floats).named("inner")
        )
        return op.any(op.Mul(inner, op.constant(d)), op.Div(inner, op.constant(d)).when(_on_floats))

    def rewrite(self, op: Builder, m: Match) -> Result:
        c, d = _number(m["c"]), _number(m["d"])
        if m["c"].dtype.is_integer and m.node("inner").op == "Div":
            return m.fail("integer division rounds")
        if ends_gelu(m.node("inner")):
            return m.fail("it is the last factor of a Gelu, which runtimes compute as one")
        first = 1 / c if m.node("inner").op == "Div" else c
        made = self.merge(op, m, first / d if m.root.op == "Div" else first * d)
        return m.fail(made) if isinstance(made, str) else op.Mul(m["x"], made)


class MergeShifts(_Merge):
    """x + c + d, x + c - d, x - c + d, x - c - d is x plus one constant.

    Contract: exact. Conditions: floats or signed integers; otherwise as for `MergeScales`.
    """

    def pattern(self, op: Patterns, x: Var, c: Var, d: Var) -> Pattern:
        inner = op.any(op.Add(x, op.constant(c)).named("inner"), op.Sub(x, op.constant(c)).named("inner"))
        return op.any(op.Add(inner, op.constant(d)), op.Sub(inner, op.constant(d)))

    def rewrite(self, op: Builder, m: Match) -> Result:
        if m["c"].dtype.name.startswith("UINT"):
            return m.fail("unsigned constants have no negatives")
        c, d = _number(m["c"]), _number(m["d"])
        first = -c if m.node("inner").op == "Sub" else c
        made = self.merge(op, m, first - d if m.root.op == "Sub" else first + d)
        return m.fail(made) if isinstance(made, str) else op.Add(m["x"], made)


def _on_floats(node: Node) -> bool:
    return node.output.dtype.is_float


@register("merge-affine")
@dataclass(frozen=True)
class MergeAffine(FusePass):
    """Merge constants that are multiplied with, or added, one after the other."""

    rules = (MergeScales, MergeShifts)
