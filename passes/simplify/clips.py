"""Limits of limits: Clip, Relu, Min and Max with numbers, one after the other.

Contract of every rule here: exact. ``Clip(x, a, b)`` is ``min(b, max(a, x))``, also where a exceeds b.
"""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir import DType, Node, Value
from graphopt.ops.builder import Builder
from graphopt.passes.simplify.conditions import same_shape
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var, is_trainable

_LIMITS = "Clip|Relu|Min|Max"


class MergeClips(Rule):
    """Clip, Relu, Min or Max of one of these is one Clip, or Relu.

    Conditions: the bounds are numbers that nobody trains, and stretch nothing. Disjoint ranges leave one number.
    """

    def pattern(self, op: Patterns, x: Var, a: Any = None, b: Any = None) -> Pattern:
        inner = op(_LIMITS, x, op.optional(op.constant(a)), op.optional(op.constant(b))).named("inner")
        return op(_LIMITS, inner, op.anything(), op.anything())

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, inner, outer = m["x"], _bounds(m.node("inner"), m["x"]), _bounds(m.root, m.node("inner").output)
        if inner is None or outer is None or not same_shape(x, m.root.output):
            return m.fail("the bounds are not numbers")
        low, high = (_limit(_limit(end, inner), outer) for end in (-math.inf, math.inf))
        if low == 0 and high == math.inf and x.dtype.is_float:
            return op.Relu(x)
        return op.Clip(
            x, None if low == -math.inf else _number(op, low, x), None if high == math.inf else _number(op, high, x)
        )


def _number(op: Builder, number: float, x: Value) -> Value:
    return op.constant(number if x.dtype.is_float else int(number), like=x)


def _limit(number: float, bounds: tuple[float, float]) -> float:
    return min(bounds[1], max(bounds[0], number))


def _bounds(node: Node, x: Value) -> tuple[float, float] | None:
    """What a node limits its operand `x` to; ``None`` when it does something else, too."""
    if x.dtype is DType.UNDEFINED or (x.dtype.bits == 64 and not x.dtype.is_float):
        return None  # a double does not hold every number of 64 bits
    if node.op == "Relu":
        return 0.0, math.inf
    others = [value for value in node.inputs if value is not x]
    if node.op == "Clip":
        low, high = (_value(node.input(i)) for i in (1, 2))
        ends = (-math.inf if node.input(1) is None else low, math.inf if node.input(2) is None else high)
        return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])
    if len(node.inputs) != 2 or len(others) != 1:
        return None
    number = _value(others[0])
    if number is None:
        return None
    return (number, math.inf) if node.op == "Max" else (-math.inf, number)


def _value(value: Value | None) -> float | None:
    if value is None or not value.is_constant or value.data is None or value.data.numel() != 1 or is_trainable(value):
        return None
    number = float(value.data)
    return None if math.isnan(number) else number


class ReluOfMax(Rule):
    """Max(x, 0) and Clip(x, 0) are Relu(x). Condition: floats, which the zero does not stretch."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.any(op.Max(x, op.const(0)), op.Clip(x, op.const(0)))

    def rewrite(self, op: Builder, m: Match) -> Result:
        if not m["x"].dtype.is_float or not same_shape(m["x"], m.root.output):
            return m.fail("it is not computed on floats, or broadcast")
        return op.Relu(m["x"])


RULES: tuple[type[Rule], ...] = (MergeClips, ReluOfMax)
