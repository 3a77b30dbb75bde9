"""Identities of arithmetic: operators that give back what they get.

Contract of every rule here: exact. Conditions: the neutral element is a constant that nobody trains or overrides, and
broadcasting against it does not change the shape.
"""

from __future__ import annotations

from typing import Any

from graphopt.ir import DType, Node
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.passes.simplify.conditions import same_shape, stand_in, stretches
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_IDEMPOTENT = ("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")
_INVOLUTIONS = ("Neg", "Not", "BitwiseNot")


class DropIdentity(Rule):
    """Identity(x) is x."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Identity(x)

    def rewrite(self, op: Builder, m: Match) -> Result:
        return stand_in(m, m["x"])


class DropNeutral(Rule):
    """x * 1, x / 1, x + 0, x - 0, x ** 1, x or false, x and true are x."""

    def pattern(self, op: Patterns, x: Var, neutral: Var) -> Pattern:
        one, zero = op.const(1, neutral), op.const(0, neutral)
        return op.any(
            op("Mul|And|Div|Pow", x, one),
            op("Add|Or|Xor|BitwiseOr|BitwiseXor|Sub", x, zero),
        )

    def rewrite(self, op: Builder, m: Match) -> Result:
        if stretches(m["neutral"], m["x"]):
            return m.fail("broadcasting against the constant may change the shape")
        return stand_in(m, m["x"])


class DropDoubled(Rule):
    """-(-x) and not(not x) are x."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.any(*(op(name, op.shared(op(name, x))) for name in _INVOLUTIONS))

    def rewrite(self, op: Builder, m: Match) -> Result:
        return stand_in(m, m["x"])


class DropRepeated(Rule):
    """f(f(x)) is f(x) for operators such as Relu, Abs, Floor."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.any(*(op(name, op.shared(op(name, x).named("inner"))) for name in _IDEMPOTENT))

    def rewrite(self, op: Builder, m: Match) -> Result:
        return m.node("inner").output


class DropSameCast(Rule):
    """Cast of x to the element type that it has is x."""

    def pattern(self, op: Patterns, x: Var, like: Var) -> Pattern:
        return op.any(op.Cast(x).when(_keeps_type), op.CastLike(x, like).when(_keeps_type))

    def rewrite(self, op: Builder, m: Match) -> Result:
        return stand_in(m, m["x"])


def _keeps_type(node: Node) -> bool:
    source = node.operand(0).dtype
    target = attribute(node, "to") if node.op == "Cast" else node.operand(1).dtype
    return source is not DType.UNDEFINED and source == target


class DropLoneOperand(Rule):
    """Concat, Sum, Mean, Max and Min of one operand, Clip without bounds, and Split into one part are that operand."""

    def pattern(self, op: Patterns, x: Var, split: Any = None) -> Pattern:
        return op.any(op("Concat|Sum|Mean|Max|Min|Clip", x), op.Split(x, split).when(lambda n: len(n.outputs) == 1))

    def rewrite(self, op: Builder, m: Match) -> Result:
        return stand_in(m, m["x"])


class DropEqualChoice(Rule):
    """Where(condition, x, x) is x."""

    def pattern(self, op: Patterns, condition: Var, x: Var) -> Pattern:
        return op.Where(condition, x, x)

    def rewrite(self, op: Builder, m: Match) -> Result:
        if not same_shape(m.root.output, m["x"]):
            return m.fail("the condition may broadcast the operand")
        return stand_in(m, m["x"])


class DropZeroBias(Rule):
    """A convolution or Gemm with a bias of zeros has none. Condition: the zeros are no trainable parameter."""

    def pattern(self, op: Patterns, x: Var, w: Var) -> Pattern:
        zeros = op.any(op.const(0), op.shared(op.Expand(op.const(0), op.anything())))
        return op("Conv|ConvTranspose|Gemm", x, w, zeros)

    def rewrite(self, op: Builder, m: Match) -> Result:
        return op.like(m.root, m["x"], m["w"])


class DropDropout(Rule):
    """Dropout outside of training is x, as long as nothing reads its mask.

    Dropout in a module captured from torch is left, for ``.train()`` to bring it to life, unless the pass is told
    otherwise.
    """

    def __init__(self, captured: bool = False) -> None:
        self.captured = captured

    def pattern(self, op: Patterns, x: Var, ratio: Any = None, training: Any = None) -> Pattern:
        return op.Dropout(x, ratio, training)

    def rewrite(self, op: Builder, m: Match) -> Result:
        training = m.get("training")
        if training is not None and not (
            training.is_constant and training.data is not None and not training.data.any()
        ):
            return m.fail("it may be in training mode")
        if m.graph.root.signature is not None and not self.captured:
            return m.fail("the module may be trained; dropout=true removes it")
        return stand_in(m, m["x"])


RULES: tuple[type[Rule], ...] = (
    DropIdentity, DropNeutral, DropDoubled, DropRepeated, DropSameCast, DropLoneOperand, DropEqualChoice,
    DropZeroBias, DropDropout,
)  # fmt: skip
