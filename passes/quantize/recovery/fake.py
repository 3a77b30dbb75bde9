"""What quantization would leave of a weight, without putting anything into the graph."""

from __future__ import annotations

import torch

from graphopt.ops.quant import spread
from graphopt.passes.quantize.fit import Search, fit_range, rows_of
from graphopt.passes.quantize.placement import WeightSite
from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.targets import Scheme


def fake_quantized(weight: torch.Tensor, site: WeightSite, scheme: Scheme, search: Search = "minmax") -> torch.Tensor:
    """A weight rounded to its grid: same shape, float32.

    Args:
        weight: what stands at the site, or would after rescaling.
        site: says what shares a scale.
        scheme: the numbers.
        search: how ranges are found.
    """
    scale, zero = parameters_of_range(*fit_range(rows_of(weight, site.axis, site.block), scheme, search), scheme)
    shape = site.parameter_shape(weight.shape)
    axis = site.axis or 0
    step = spread(scale.reshape(shape), weight, axis, site.block)
    offset = spread(zero.float().reshape(shape), weight, axis, site.block)
    codes = (weight.detach().float() / step).round() + offset
    return (codes.clamp(*scheme.limits) - offset) * step
