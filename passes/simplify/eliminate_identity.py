"""Operators that do nothing."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.simplify import identity_arithmetic, identity_views
from graphopt.passes.simplify.identity_arithmetic import DropDropout
from graphopt.pipeline import register
from graphopt.rewrite import RewritePass, Rule


@register("eliminate-identity")
@dataclass(frozen=True)
class EliminateIdentity(RewritePass):
    """Remove what gives back what it gets: x*1, x+0, casts to the same type, views that change nothing, Dropout.

    Attributes:
        dropout: remove Dropout from modules captured from torch, too; they cannot be trained with it afterwards.
    """

    rules = (*identity_arithmetic.RULES, *identity_views.RULES)
    dropout: bool = False

    def make_rules(self) -> list[Rule]:
        return [DropDropout(self.dropout) if rule is DropDropout else rule() for rule in self.rules]
