"""Chains of views, casts, limits and expansions."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.simplify import chains, clips, moved_views, spreads
from graphopt.pipeline import register
from graphopt.rewrite import RewritePass


@register("merge-chains")
@dataclass(frozen=True)
class MergeChains(RewritePass):
    """Merge reshapes of reshapes, transposes of transposes, casts of casts, pads of pads, limits of limits."""

    rules = (*chains.RULES, *moved_views.RULES, *clips.RULES, *spreads.RULES)
