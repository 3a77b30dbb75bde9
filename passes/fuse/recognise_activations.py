"""Activations from primitives."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.fuse import activations
from graphopt.passes.fuse.recognition import RecognisePass
from graphopt.pipeline import register


@register("recognise-activations")
@dataclass(frozen=True)
class RecogniseActivations(RecognisePass):
    """Make Gelu, Swish, Mish, HardSwish, PRelu, Softmax and their like of the primitives they consist of."""

    rules = activations.RULES
