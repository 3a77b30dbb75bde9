"""Importance criteria, a file per family."""

from graphopt.passes.prune.criteria import activations, filters, gradients, magnitude
from graphopt.passes.prune.criteria.evidence import Evidence
from graphopt.passes.prune.criteria.registry import (
    Criterion,
    all_criteria,
    criterion,
    find_criterion,
    flow_criterion,
    slice_criterion,
)

__all__ = [
    "Criterion", "Evidence", "activations", "all_criteria", "criterion", "filters", "find_criterion",
    "flow_criterion", "gradients", "magnitude", "slice_criterion",
]  # fmt: skip
