"""Pruning passes."""

from graphopt.passes.prune.channels import PruneChannels
from graphopt.passes.prune.criteria import (
    Criterion,
    Evidence,
    all_criteria,
    criterion,
    find_criterion,
    flow_criterion,
    slice_criterion,
)
from graphopt.passes.prune.depth import PruneDepth
from graphopt.passes.prune.sparsify import Sparsify

__all__ = [
    "Criterion", "Evidence", "PruneChannels", "PruneDepth", "Sparsify", "all_criteria", "criterion", "find_criterion",
    "flow_criterion", "slice_criterion",
]  # fmt: skip
