"""Scales of attention: numbers that can be multiplied in elsewhere, for less."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import Node, Value
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.fuse.linear import is_linear_output
from graphopt.passes.fuse.numbers import scalar
from graphopt.passes.simplify.conditions import fits, stretches
from graphopt.pipeline import register
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_VIEWS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})
_MAX_VIEWS = 4


def _factor(node: Node, c: Value) -> float | None:
    """What a Mul or Div by the one number in `c` multiplies with."""
    number = scalar(c)
    if number is None or not node.output.dtype.is_float or (node.op == "Div" and number == 0):
        return None
    return 1 / number if node.op == "Div" else number


class ScaledFactors(Rule):
    """MatMul(a * c, b * d) is MatMul(a * (c * d), b); b * d may be transposed in between.

    Contract: exact. Conditions: c and d are one number each, and their product fits the element type.
    """

    def pattern(self, op: Patterns, a: Var, b: Var, c: Var, d: Var) -> Pattern:
        left = op.any(op.Mul(a, op.constant(c)).named("left"), op.Div(a, op.constant(c)).named("left"))
        right = op.any(op.Mul(b, op.constant(d)).named("right"), op.Div(b, op.constant(d)).named("right"))
        return op.MatMul(left, op.any(op.Transpose(right).named("view"), right))

    def rewrite(self, op: Builder, m: Match) -> Result:
        a, b = m["a"], m["b"]
        factors = [_factor(m.node("left"), m["c"]), _factor(m.node("right"), m["d"])]
        if factors[0] is None or factors[1] is None:
            return m.fail("it is not scaled by one number on both sides")
        if stretches(m["c"], a) or stretches(m["d"], b):
            return m.fail("broadcasting against the constant may change the shape")
        exact = torch.tensor(factors[0] * factors[1], dtype=torch.float64)
        if not fits(exact.to(a.dtype.torch), exact):
            return m.fail("the combined number does not fit")
        combined = op.constant(float(exact), like=a)
        if m.has("view"):
            b = op.like(m.node("view"), b)
        return op.MatMul(op.Mul(a, combined), b)


class ScaledViews(Rule):
    """A number that scales a reshaped or transposed linear layer, or a MatMul of that, scales the layer itself.

    There it is folded into the weights. Contract: exact. Conditions: one number; up to four views, which nothing else
    reads; the layer's weight is a constant that nothing else reads.
    """

    def pattern(self, op: Patterns, x: Var, c: Var) -> Pattern:
        # Most of what is multiplied with a constant is nothing of the kind, and no miss worth telling.
        scaled = op.where(x, _is_view_or_product)
        return op.any(op.Mul(scaled, op.constant(c)), op.Div(scaled, op.constant(c)))

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, c = m["x"], m["c"]
        if not _is_alone(x, m.root) or _factor(m.root, c) is None or stretches(c, x):
            return m.fail("it is no number, or what it scales is used elsewhere")
        product = x.producer
        if product is None or product.op != "MatMul" or product.domain:
            made = _scaled(op, m.root, x, c)
            return m.fail("there is no linear layer above") if made is None else made
        for index in (0, 1):
            made = (
                _scaled(op, m.root, product.operand(index), c) if _is_alone(product.operand(index), product) else None
            )
            if made is not None:
                other = product.operand(1 - index)
                return op.MatMul(made, other) if index == 0 else op.MatMul(other, made)
        return m.fail("there is no linear layer above")


def _is_view_or_product(value: Value) -> bool:
    node = value.producer
    return node is not None and not node.domain and (node.op in _VIEWS or node.op == "MatMul")


def _is_alone(value: Value, reader: Node) -> bool:
    return len(value.uses) == 1 and value.producer is not None and value.graph is reader.graph


def _scaled(op: Builder, scale: Node, value: Value, c: Value) -> Value | None:
    """`value`, with the layer above its views scaled; ``None`` when there are no views, or no layer above them."""
    views: list[Node] = []
    node = value.producer
    while node is not None and node.op in _VIEWS and not node.domain and len(views) <= _MAX_VIEWS:
        views.append(node)
        value = node.operand(0)
        if not _is_alone(value, node):
            return None
        node = value.producer
    if not views or not is_linear_output(value):
        return None
    rank = value.rank or 0
    if (c.rank or 0) > rank:
        return None
    made: Value = op.like(scale, value, c)
    for view in reversed(views):
        made = op.like(view, made, *view.inputs[1:])
    return made


@register("move-scales")
@dataclass(frozen=True)
class MoveScales(FusePass):
    """Move numbers that scale attention scores to where the weights of a linear layer, or one another, take them in."""

    rules = (ScaledFactors, ScaledViews)
    looks_for = frozenset({"Mul", "Div"})
