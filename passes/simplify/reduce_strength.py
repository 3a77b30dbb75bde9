"""Cheaper operators."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.simplify import strength
from graphopt.pipeline import register
from graphopt.rewrite import RewritePass


@register("reduce-strength")
@dataclass(frozen=True)
class ReduceStrength(RewritePass):
    """Multiply instead of dividing by constants or raising to powers, choose ahead of time, sum constants up."""

    rules = strength.RULES
