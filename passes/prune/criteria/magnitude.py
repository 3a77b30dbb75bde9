"""Criteria that look at weights alone."""

from __future__ import annotations

import torch

from graphopt.ir import Value
from graphopt.passes.prune.criteria.evidence import Evidence, weight_data
from graphopt.passes.prune.criteria.registry import criterion, slice_criterion


@criterion("l1")
def l1(weight: Value, evidence: Evidence) -> torch.Tensor:
    """Magnitude (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)."""
    return weight_data(weight).abs()


@criterion("l2")
def l2(weight: Value, evidence: Evidence) -> torch.Tensor:
    """Squared magnitude; sums of it order components as their L2 norms do."""
    return weight_data(weight).square()


@criterion("linf")
def linf(weight: Value, evidence: Evidence) -> torch.Tensor:
    """Largest magnitude in a slice."""
    return weight_data(weight).abs()


@slice_criterion("linf")
def _linf_of_slices(slices: torch.Tensor, weight: Value, evidence: Evidence) -> torch.Tensor:
    return slices.abs().amax(1)


@criterion("random")
def random(weight: Value, evidence: Evidence) -> torch.Tensor:
    """Uniform noise from the run's seed and the weight's name: the baseline that a criterion has to beat."""
    return _noise(weight, evidence, weight_data(weight).shape)


@slice_criterion("random")
def _random_of_slices(slices: torch.Tensor, weight: Value, evidence: Evidence) -> torch.Tensor:
    # A sum of noise over a slice would hardly differ from one slice to the next.
    return _noise(weight, evidence, slices.shape[:1])


def _noise(weight: Value, evidence: Evidence, shape: torch.Size) -> torch.Tensor:
    seed = evidence.seed + sum((i + 1) * byte for i, byte in enumerate(weight.name.encode()))
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@criterion("lamp")
def lamp(weight: Value, evidence: Evidence) -> torch.Tensor:
    """Squared magnitude over the sum of all that are as large (Lee et al., Layer-Adaptive Sparsity, ICLR 2021)."""
    data = weight_data(weight)
    return _over_larger(data.square().flatten()).reshape(data.shape)


@slice_criterion("lamp")
def _lamp_of_slices(slices: torch.Tensor, weight: Value, evidence: Evidence) -> torch.Tensor:
    return _over_larger(slices.square().sum(1))


def _over_larger(scores: torch.Tensor) -> torch.Tensor:
    order = scores.argsort(stable=True)
    larger = scores[order].double().flip(0).cumsum(0).flip(0)
    result = torch.empty_like(larger)
    result[order] = scores[order] / larger.clamp_min(torch.finfo(torch.float64).tiny)
    return result.to(scores.dtype)
