"""Criteria from the gradient of the loss: they need data with labels, or a loss of one's own."""

from __future__ import annotations

import torch

from graphopt.ir import Value
from graphopt.passes.prune.criteria.evidence import Evidence, weight_data
from graphopt.passes.prune.criteria.registry import criterion


@criterion("taylor")
def taylor(weight: Value, evidence: Evidence) -> torch.Tensor | None:
    """First order: abs(w * dL/dw), averaged over batches (Molchanov et al., ICLR 2017 and CVPR 2019)."""
    gradient = evidence.gradients.get(weight)
    return None if gradient is None else weight_data(weight).abs() * gradient


@criterion("obd-c")
def obd_c(weight: Value, evidence: Evidence) -> torch.Tensor | None:
    """Second order with the empirical Fisher diagonal: w^2 * (dL/dw)^2 / 2 (C-OBD of EigenDamage, ICML 2019)."""
    squared = evidence.squared_gradients.get(weight)
    return None if squared is None else weight_data(weight).square() * squared / 2


@criterion("hessian")
def hessian(weight: Value, evidence: Evidence) -> torch.Tensor | None:
    """Second order with the Hessian's diagonal: w^2 * d2L/dw2 / 2 (LeCun et al., Optimal Brain Damage, 1990)."""
    curvature = evidence.curvatures.get(weight)
    return None if curvature is None else weight_data(weight).square() * curvature / 2
