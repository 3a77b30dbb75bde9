"""Scale and zero point from a range."""

from __future__ import annotations

import torch

from graphopt.targets import Scheme


def parameters_of_range(low: torch.Tensor, high: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear quantization of the range [low, high]: ``d = (max - min) / (2^r - 1)``.

    The range is widened to hold 0, which must be exact (padding, ReLU). An empty range gets scale 1.

    Args:
        low: least values, one per scale.
        high: greatest values, same shape.
        scheme: type, symmetry and bits.

    Returns:
        scales (float32) and zero points (the scheme's carrier type), in the shape of `low`.
    """
    least, greatest = scheme.limits
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    if scheme.symmetric:
        scale = torch.maximum(-low, high) / max(abs(least), greatest)
    else:
        scale = (high - low) / (greatest - least)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).float()
    # A scale that float32 rounds to zero, or to a subnormal, would divide by zero in a kernel.
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    if scheme.symmetric:
        zero = torch.zeros_like(low)
    else:
        zero = (least - low / scale.double()).round().clamp(least, greatest)
    return scale, zero.to(scheme.dtype.torch)


def weight_parameters(weight: torch.Tensor, axis: int | None, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of a weight: vectors along `axis`, or scalars when it is ``None``."""
    data = weight.detach().float()
    if axis is None:
        low, high = data.amin(), data.amax()
    else:
        flat = data.movedim(axis, 0).reshape(data.shape[axis], -1)
        low, high = flat.amin(1), flat.amax(1)
    return parameters_of_range(low, high, scheme)
