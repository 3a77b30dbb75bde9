"""Chains of views and casts: two become one, or none.

Contract of every rule here: exact. The inner operator may have other readers; it stays for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.infer import contents, static_integers
from graphopt.passes.simplify.conditions import holds, same_shape, stand_in
from graphopt.passes.simplify.resolve_shapes import reshape_target
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_VIEWS = "Reshape|Flatten|Squeeze|Unsqueeze"


class MergeViews(Rule):
    """Reshape, Flatten, Squeeze or Unsqueeze of one of these is one Reshape, or nothing.

    Conditions: the resulting shape can be written as a constant; or the outer one is a Reshape whose shape holds no
    zeros, which would stand for dimensions of the operand that goes.
    """

    def pattern(self, op: Patterns, x: Var, *rest: Any) -> Pattern:
        # The operands besides x are read off the nodes: both have a variable number of them.
        return op(_VIEWS, op.shared(op(_VIEWS, x, *rest)).named("inner"), op.anything(), op.anything())

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, outer = m["x"], m.root
        if same_shape(x, outer.output):
            return stand_in(m, x)
        target = reshape_target(x.shape, outer.output.shape)
        if target is not None:
            return op.Reshape(x, target)
        if outer.op == "Reshape" and _is_free_of_zeros(outer):
            return op.Reshape(x, outer.operand(1), allowzero=outer.attributes.get("allowzero"))
        return m.fail("the shape depends on the operand in between")


def _is_free_of_zeros(node: Node) -> bool:
    known = contents(node.input(1))
    return known is not None and all(isinstance(dim, int) and dim != 0 for dim in known.flat)


class MergeUnsqueezes(Rule):
    """Unsqueeze of Unsqueeze is one Unsqueeze; Squeeze of Squeeze is one Squeeze. Condition: all axes are constants."""

    def pattern(self, op: Patterns, x: Var, first: Var, second: Var) -> Pattern:
        return op.any(
            op.Unsqueeze(op.shared(op.Unsqueeze(x, op.constant(first))), op.constant(second)),
            op.Squeeze(op.shared(op.Squeeze(x, op.constant(first))), op.constant(second)),
        )

    def rewrite(self, op: Builder, m: Match) -> Result:
        first, second, rank = static_integers(m["first"]), static_integers(m["second"]), m["x"].rank
        if first is None or second is None or rank is None:
            return m.fail("the rank is not known")
        if m.root.op == "Unsqueeze":
            middle, last = rank + len(first), rank + len(first) + len(second)
            outer = {axis % last for axis in second}
            free = [place for place in range(last) if place not in outer]
            return op.Unsqueeze(m["x"], sorted([*outer, *(free[axis % middle] for axis in first)]))
        inner = {axis % rank for axis in first}
        left = [place for place in range(rank) if place not in inner]
        return op.Squeeze(m["x"], sorted([*inner, *(left[axis % len(left)] for axis in second)]))


class MergeTransposes(Rule):
    """Transpose of Transpose is one Transpose, or nothing when the second undoes the first."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Transpose(op.shared(op.Transpose(x).named("inner")))

    def rewrite(self, op: Builder, m: Match) -> Result:
        rank = m["x"].rank
        if rank is None:
            return m.fail("the rank is not known")
        first, second = _permutation(m.node("inner"), rank), _permutation(m.root, rank)
        perm = [first[axis] for axis in second]
        return stand_in(m, m["x"]) if perm == list(range(rank)) else op.Transpose(m["x"], perm=perm)


def _permutation(node: Node, rank: int) -> Sequence[int]:
    return attribute(node, "perm") or tuple(reversed(range(rank)))


class MergeCasts(Rule):
    """Cast of Cast is one Cast, or nothing, when the type in between holds every value of the first one exactly."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Cast(op.shared(op.Cast(x).named("inner")))

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, middle, target = m["x"], m.node("inner").output.dtype, m.root.output.dtype
        if not holds(middle, x.dtype):
            return m.fail("the type in between loses something")
        return stand_in(m, x) if x.dtype is target else op.like(m.root, x)


class MergePads(Rule):
    """Pad of Pad, both with the same constant, is one Pad. Conditions: constant amounts, none negative, no axes."""

    def pattern(self, op: Patterns, x: Var, a: Var, b: Var, v: Any = None, w: Any = None) -> Pattern:
        inner = op.Pad(x, op.constant(a), v, mode="constant").named("inner")
        return op.Pad(inner, op.constant(b), w, mode="constant")

    def rewrite(self, op: Builder, m: Match) -> Result:
        amounts = [static_integers(m[name]) for name in "ab"]
        values = [_fill(m.get(name)) for name in "vw"]
        if values[0] is None or values[0] != values[1]:
            return m.fail("they pad with different values")
        if amounts[0] is None or amounts[1] is None or min([*amounts[0], *amounts[1]], default=0) < 0:
            return m.fail("an amount is negative or not known")
        return op.Pad(m["x"], [i + j for i, j in zip(*amounts, strict=True)], m.get("w") or m.get("v"))


def _fill(value: Value | None) -> float | None:
    if value is None:
        return 0
    # As it is: a float would not tell large integers apart.
    return value.data.item() if value.is_constant and isinstance(value.data, torch.Tensor) else None


RULES: tuple[type[Rule], ...] = (MergeUnsqueezes, MergeViews, MergeTransposes, MergeCasts, MergePads)
