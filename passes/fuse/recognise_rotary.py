"""Rotary embeddings from primitives."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.fuse import rotary
from graphopt.passes.fuse.recognition import RecognisePass
from graphopt.pipeline import register


@register("recognise-rotary")
@dataclass(frozen=True)
class RecogniseRotary(RecognisePass):
    """Make a RotaryEmbedding of the products with sines and cosines that it consists of (opset 23)."""

    rules = rotary.RULES
    looks_for = frozenset({"Concat"})
