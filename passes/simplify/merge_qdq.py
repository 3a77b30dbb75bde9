"""Quantizers that undo one another, or that what moves elements need not wait for."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.simplify import quantized
from graphopt.passes.simplify.quantized import MoveIntegers
from graphopt.pipeline import register
from graphopt.rewrite import RewritePass, Rule


@register("merge-qdq")
@dataclass(frozen=True)
class MergeQuantizers(RewritePass):
    """Cancel quantizers that undo one another, and let views, concatenations and maxima work on the integers.

    The integers that a model computes stay the same, and so do quantized weights.

    Attributes:
        captured: move integers through modules captured from torch, too; their quantizers cannot be trained then.
    """

    rules = quantized.RULES
    looks_for = frozenset({"QuantizeLinear", "DequantizeLinear"})
    captured: bool = False

    def make_rules(self) -> list[Rule]:
        return [MoveIntegers(self.captured) if rule is MoveIntegers else rule() for rule in self.rules]
