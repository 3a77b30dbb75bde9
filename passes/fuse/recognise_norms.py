"""Normalisations from primitives."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.fuse import norms
from graphopt.passes.fuse.recognition import RecognisePass
from graphopt.pipeline import register


@register("recognise-norms")
@dataclass(frozen=True)
class RecogniseNorms(RecognisePass):
    """Make LayerNormalization, RMSNormalization, GroupNormalization and InstanceNormalization of means and deviations.

    Scale and bias that follow one are folded into it.
    """

    rules = norms.RULES
