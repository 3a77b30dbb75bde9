"""The pattern language: the `op` with which rules write down what they look for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.ir import Value
from graphopt.rewrite.pattern import Any_, Anything, Constant, NodePattern, Operand, Optional, Pattern, Where


class Patterns:
    """Writes patterns: the `op` of a rule's ``pattern``.

    ``op.Conv(x, w, b, group=1)`` is an operator with inputs and attributes; ``op("Conv|ConvTranspose", x, w)`` one of
    several operators. Inputs that may be exchanged are matched in both orders.
    """

    def __getattr__(self, op: str) -> Callable[..., NodePattern]:
        if not op[:1].isupper():
            raise AttributeError(f"the pattern language has no '{op}', and operators start with a capital letter")
        return lambda *inputs, **keywords: self(op, *inputs, **keywords)

    def __call__(self, ops: str, *inputs: Operand, domain: str = "", **attributes: Any) -> NodePattern:
        """An operator.

        Args:
            ops: its name, or several with ``|`` between them.
            inputs: patterns; ``None`` for an input that must be left out.
            domain: dialect.
            attributes: values that the attributes must have (defaults count), or conditions on them.
        """
        return NodePattern([(domain, op) for op in ops.split("|")], inputs, attributes)

    def any(self, *choices: Pattern) -> Pattern:
        """One of several patterns."""
        return Any_(*choices)

    def anything(self) -> Pattern:
        """Any value, or an input that is left out."""
        return Anything()

    def optional(self, inner: Pattern) -> Pattern:
        """A pattern or nothing; its variables are bound to ``None`` then."""
        return Optional(inner)

    def constant(self, inner: Pattern | None = None) -> Pattern:
        """Any constant, bound to a variable."""
        return Constant(inner)

    def const(self, number: float, inner: Pattern | None = None, tolerance: float = 0.0) -> Pattern:
        """A constant whose elements all equal `number`, whatever its shape; never a trainable parameter."""
        return Constant(inner, number, tolerance)

    def where(self, inner: Pattern, condition: Callable[[Value], bool]) -> Pattern:
        """A pattern whose value fulfils a condition."""
        return Where(inner, condition)

    def shared(self, inner: NodePattern) -> NodePattern:
        """A node inside the pattern whose outputs may be read from outside it; it stays for those readers."""
        inner.is_shared = True
        return inner
