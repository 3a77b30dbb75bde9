"""Transposes that cancel, or that another operator does by itself."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.simplify import transposes
from graphopt.pipeline import register
from graphopt.rewrite import RewritePass


@register("cancel-transposes")
@dataclass(frozen=True)
class CancelTransposes(RewritePass):
    """Push transposes through elementwise operators, reductions, softmax and concatenations where that saves some."""

    rules = transposes.RULES
    looks_for = frozenset({"Transpose"})
