"""Criteria that look at a layer's channels side by side, and at the scales of normalisations."""

from __future__ import annotations

import torch

from graphopt.ir import Value
from graphopt.passes.prune.criteria.evidence import Evidence, weight_data
from graphopt.passes.prune.criteria.registry import criterion, slice_criterion

#: Operators whose input 1 scales each channel after it was normalised.
NORMALISATIONS = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"}
)


@slice_criterion("fpgm")
def fpgm(slices: torch.Tensor, weight: Value, evidence: Evidence) -> torch.Tensor | None:
    """Distance to all others: what lies at the geometric median is replaceable (He et al., FPGM, CVPR 2019)."""
    if (weight.rank or 0) < 2:
        return None
    return torch.cdist(slices, slices).sum(1)


@criterion("bn-scale")
def bn_scale(weight: Value, evidence: Evidence) -> torch.Tensor | None:
    """Magnitude of a normalisation's scale (Liu et al., Network Slimming, ICCV 2017); use it before fusing."""
    reads = any(user.op in NORMALISATIONS and user.input(1) is weight for user in weight.users)
    return weight_data(weight).abs() if reads else None
