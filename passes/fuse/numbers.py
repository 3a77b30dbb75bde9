"""Numbers that patterns ask for, as they come out of files: rounded to the element type of the model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graphopt.ir import Value
from graphopt.rewrite import Match, Pattern, Patterns, Var, is_trainable

# Exporters write sqrt(2) and its like with seven digits or more.
_RELATIVE = 1e-6


def near(op: Patterns, number: float, inner: Var | None = None) -> Pattern:
    """A constant of one element that is `number`, or what the element type has for it; never a trainable parameter."""
    return op.where(op.constant(inner), _is_near(number))


def _is_near(number: float) -> Callable[[Value], bool]:
    def condition(value: Value) -> bool:
        found = scalar(value)
        if found is None:
            return False
        rounded = float(torch.tensor(number, dtype=value.dtype.torch)) if value.dtype.is_float else number
        return found == rounded or abs(found - number) <= _RELATIVE * abs(number)

    return condition


def scalar(value: Value | None) -> float | None:
    """The number in a constant of one element that nobody trains; ``None`` when it is something else."""
    if value is None or not value.is_constant or value.data is None or value.data.numel() != 1:
        return None
    if is_trainable(value) or value.data.is_complex() or value.data.is_meta:
        return None
    return float(value.data)


def number(m: Match, name: str) -> float | None:
    """`scalar` of a variable of a match."""
    return scalar(m.get(name))


def halved(op: Patterns, x: Pattern) -> Pattern:
    """X * 0.5 or x / 2."""
    return op.any(op.Mul(x, near(op, 0.5)), op.Div(x, near(op, 2)))


def times(op: Patterns, x: Pattern, factor: float) -> Pattern:
    """X * factor, or x / (1 / factor)."""
    return op.any(op.Mul(x, near(op, factor)), op.Div(x, near(op, 1 / factor)))


def squared(op: Patterns, x: Pattern) -> Pattern:
    """X * x or x ** 2."""
    return op.any(op.Mul(x, x), op.Pow(x, near(op, 2)))
