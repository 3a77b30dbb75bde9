"""Cheaper operators for the same numbers, and sums and products in another order.

Contract of every rule here: exact.
"""

from __future__ import annotations

import torch

from graphopt.ir import DType, Node, Value
from graphopt.ops.builder import Builder
from graphopt.passes.simplify.conditions import fits, same_shape, stand_in, stretches
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

# A factor that takes the numbers of networks nowhere near the ends of an exponent of eight bits.
_MODERATE = 1e6


class PowerOfNumber(Rule):
    """x ** 2 is x * x, x ** 0.5 is Sqrt(x), x ** -1 is Reciprocal(x).

    Conditions: floats of one type; no mean is taken of the squares: by x ** 2 runtimes find a root-mean-square norm. Of
    minus infinity the root is NaN, where C's pow has infinity.
    """

    def pattern(self, op: Patterns, x: Var, n: Var) -> Pattern:
        return op.Pow(x, op.any(*(op.const(number, n) for number in (2, 0.5, -1))))

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, n = m["x"], m["n"]
        if not x.dtype.is_float or stretches(n, x):
            return m.fail("it is not computed on floats, or the exponent stretches x")
        exponent = float(m.data("n").flatten()[0])
        if exponent == 2 and any(user.op == "ReduceMean" for user in m.root.output.users):
            return m.fail("runtimes find a norm by this power")
        if exponent == 2:
            return op.Mul(x, x)
        return op.Sqrt(x) if exponent == 0.5 else op.Reciprocal(x)


class DivideByConstant(Rule):
    """x / c is x * (1 / c).

    Conditions: floats; c is no parameter, and its inverse is a normal number; Erf does not read it: by x / sqrt(2)
    runtimes find a Gelu.
    """

    def pattern(self, op: Patterns, x: Var, c: Var) -> Pattern:
        return op.Div(x, op.constant(c)).when(_on_floats)

    def rewrite(self, op: Builder, m: Match) -> Result:
        c, x = m["c"], m["x"]
        if c.parameter is not None or x.is_constant:
            return m.fail("the divisor is a parameter, or all is constant")
        if any(user.op == "Erf" for user in m.root.output.users):
            return m.fail("runtimes find a Gelu by this division")
        exact = 1 / m.data("c").double()
        inverse = exact.to(c.dtype.torch)
        if not fits(inverse, exact) or not bool(exact.all()):
            return m.fail("the divisor has no inverse")
        return op.Mul(x, op.constant(inverse, name=c.name, dtype=c.dtype))


def _on_floats(node: Node) -> bool:
    return node.output.dtype.is_float


class ConstantChoice(Rule):
    """Where with a condition that is all true, or all false, is one of its operands, unless that is broadcast."""

    def pattern(self, op: Patterns, a: Var, b: Var, c: Var) -> Pattern:
        return op.Where(op.any(op.const(1, c), op.const(0, c)), a, b)

    def rewrite(self, op: Builder, m: Match) -> Result:
        chosen = m["a"] if bool(m.data("c").flatten()[0]) else m["b"]
        if not same_shape(chosen, m.root.output):
            return m.fail("the choice is broadcast")
        return stand_in(m, chosen)


class MergeReflections(Rule):
    """c - (x + d), c - (x - d), c - (d - x), (c - x) + d, (c - x) - d, d - (c - x) are a constant minus or plus x.

    Conditions: floats; the constants combine to one that is no larger than either; neither is a parameter.
    """

    def pattern(self, op: Patterns, x: Var, c: Var, d: Var) -> Pattern:
        reflected = op.Sub(op.constant(d), x).named("reflected")
        inner = op.any(op.Add(x, op.constant(d)).named("added"), op.Sub(x, op.constant(d)).named("taken"), reflected)
        return op.any(
            op.Sub(op.constant(c), inner).named("outer").when(_on_floats),
            op.Add(reflected, op.constant(c)).when(_on_floats),
            op.Sub(reflected, op.constant(c)).named("less").when(_on_floats),
        )

    def rewrite(self, op: Builder, m: Match) -> Result:
        c, d = m.data("c").double(), m.data("d").double()
        if m.has("outer"):
            total = c + d if m.has("taken") else c - d
        else:
            total = d - c if m.has("less") else d + c
        made = _combined(op, m, total)
        if isinstance(made, str):
            return m.fail(made)
        positive = m.has("outer") and m.has("reflected")
        return op.Add(m["x"], made) if positive else op.Sub(made, m["x"])


class MergeBranches(Rule):
    """(x + c) + (y + d) is (x + y) + (c + d), and likewise for products.

    Conditions: floats; c and d are one number each, and no parameters; x and y have the shape of the result. Of a
    product also: no float16, and a product of c and d that is neither large nor small, for x * y must not overflow or
    vanish where the result does not.
    """

    def pattern(self, op: Patterns, x: Var, y: Var, c: Var, d: Var) -> Pattern:
        return op.any(
            *(op(f, op(f, x, op.constant(c)), op(f, y, op.constant(d))).when(_on_floats) for f in ("Add", "Mul"))
        )

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, y, c, d = m["x"], m["y"], m.data("c").double(), m.data("d").double()
        if c.numel() != 1 or d.numel() != 1 or not same_shape(x, m.root.output) or not same_shape(y, m.root.output):
            return m.fail("the constants are not one number each, or stretch something")
        if m.root.op == "Mul" and (x.dtype is DType.FLOAT16 or not 1 / _MODERATE <= abs(float(c * d)) <= _MODERATE):
            return m.fail("the product without its constants may be out of range")
        made = _combined(op, m, c + d if m.root.op == "Add" else c * d)
        return m.fail(made) if isinstance(made, str) else op(m.root.op, op(m.root.op, x, y), made)


def _combined(op: Builder, m: Match, total: torch.Tensor) -> Value | str:
    """The constant that stands for ``c`` and ``d`` of a match, or why there is none."""
    c, d = m["c"], m["d"]
    if c.parameter is not None or d.parameter is not None:
        return "a constant is a parameter"
    if total.numel() > max(m.data("c").numel(), m.data("d").numel()):
        return "the one constant would be larger than the two"
    made = total.to(c.dtype.torch)
    if not fits(made, total):
        return f"the combined numbers do not fit {c.dtype}"
    return op.constant(made, name=c.name, dtype=c.dtype)


RULES: tuple[type[Rule], ...] = (PowerOfNumber, DivideByConstant, ConstantChoice, MergeReflections, MergeBranches)
