"""Attention from primitives."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.fuse import attention
from graphopt.passes.fuse.recognition import RecognisePass
from graphopt.pipeline import register


@register("recognise-attention")
@dataclass(frozen=True)
class RecogniseAttention(RecognisePass):
    """Make an Attention of the products, the scale, the mask and the softmax that it consists of (opset 23)."""

    rules = attention.RULES
    looks_for = frozenset({"Softmax"})
