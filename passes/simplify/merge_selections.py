"""Slices, splits, gathers and concatenations of one another."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.simplify import selections
from graphopt.pipeline import register
from graphopt.rewrite import RewritePass


@register("merge-selections")
@dataclass(frozen=True)
class MergeSelections(RewritePass):
    """Pick the same elements with fewer Slices, Splits, Squeezes, Concats and sequences."""

    rules = selections.RULES
