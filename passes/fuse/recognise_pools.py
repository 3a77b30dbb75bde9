"""Pooling from primitives."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.fuse.norms import GlobalPoolOfMean
from graphopt.passes.fuse.recognition import RecognisePass
from graphopt.pipeline import register


@register("recognise-pools")
@dataclass(frozen=True)
class RecognisePools(RecognisePass):
    """Make a GlobalAveragePool, which runtimes also have for integers, of a mean over all spatial dimensions."""

    rules = (GlobalPoolOfMean,)
