"""Activations that are cheaper than those they stand for.

Contract of every rule here: approximate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from graphopt.ir import Value
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.activations import GeluOfErf, GeluOfTanh
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Rule, Var


def _hard_swish(op: Builder, x: Value) -> Value:
    return op.HardSwish(x)


def _relu(op: Builder, x: Value) -> Value:
    return op.Relu(x)


def _hard_sigmoid(op: Builder, x: Value) -> Value:
    return op.HardSigmoid(x, alpha=1 / 6, beta=0.5)


def _tanh_gelu(op: Builder, x: Value) -> Value:
    return op.Gelu(x, approximate="tanh")


def _sigmoid_gelu(op: Builder, x: Value) -> Value:
    return op.Mul(x, op.Sigmoid(op.Mul(x, op.constant(1.702, like=x))))


def _hard_tanh(op: Builder, x: Value) -> Value:
    return op.Clip(x, op.constant(-1.0, like=x), op.constant(1.0, like=x))


#: How each substitute is made.
SUBSTITUTES: dict[str, Callable[[Builder, Value], Value]] = {
    "hardswish": _hard_swish,
    "relu": _relu,
    "hardsigmoid": _hard_sigmoid,
    "tanh": _tanh_gelu,
    "sigmoid": _sigmoid_gelu,
    "hardtanh": _hard_tanh,
}


class Substitution(Rule):
    """One activation in the place of another.

    Class attributes:
        choice: the substitute unless told otherwise.

    Args:
        to: a key of `SUBSTITUTES`.
    """

    choice: ClassVar[str] = "relu"

    def __init__(self, to: str = "") -> None:
        self.to = to or self.choice

    def rewrite(self, op: Builder, m: Match) -> Result:
        x = m["x"]
        if not x.dtype.is_float:
            return m.fail("it is not computed on floats")
        reason = self.obstacle(m)
        return Failure(reason) if reason else SUBSTITUTES[self.to](op, x)

    def obstacle(self, m: Match) -> str:
        """Why this one is not to be replaced; empty when it is."""
        return ""


class SubstituteSilu(Substitution):
    """Swish(x), also as x * Sigmoid(x), becomes HardSwish(x) (off by 0.15 at most) or Relu(x) (0.28)."""

    choice = "hardswish"

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.any(op.Swish(x, alpha=1.0), op.Mul(x, op.Sigmoid(x)))


class SubstituteGelu(Substitution):
    """Gelu(x), also in primitives, becomes its tanh form, x * sigmoid(1.702 x) or Relu(x).

    They are off by 5e-4, 0.021 and 0.17 at most. Condition: it is not what it would become already.
    """

    choice = "tanh"

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        primitives: list[Any] = [GeluOfErf().pattern(op, x), GeluOfTanh().pattern(op, x)]
        return op.any(op.Gelu(x).named("gelu"), *primitives)

    def obstacle(self, m: Match) -> str:
        mode = m.node("gelu").attributes.get("approximate") if m.has("gelu") else None
        return "it is in that form already" if self.to == mode else ""


class SubstituteMish(Substitution):
    """Mish(x), also as x * Tanh(Softplus(x)), becomes HardSwish(x) (off by 0.29 at most) or Relu(x) (0.31)."""

    choice = "hardswish"

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.any(op.Mish(x), op.Mul(x, op.Tanh(op.Softplus(x))))


class SubstituteSigmoid(Substitution):
    """Sigmoid(x) becomes HardSigmoid(x), off by 0.07 at most."""

    choice = "hardsigmoid"

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Sigmoid(x)


class SubstituteTanh(Substitution):
    """Tanh(x) becomes x limited to -1 to 1, off by 0.24 at most."""

    choice = "hardtanh"

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Tanh(x)
