"""Scale and zero point from a range."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.ir import Value
from graphopt.targets import Scheme, Target


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


def weight_parameters(
    weight: torch.Tensor, axis: int | None, scheme: Scheme, block: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of a weight.

    Args:
        weight: any shape.
        axis: dimension with a scale per index, or per block; ``None`` for one scale.
        scheme: type, symmetry and bits.
        block: elements of `axis` that share a scale; 0 where there are no blocks.

    Returns:
        Scalars; vectors along `axis`; or, blocked, tensors of the weight's rank with ``ceil(extent / block)`` entries
        along `axis`.
    """
    data = weight.detach().float()
    if axis is None:
        low, high = data.amin(), data.amax()
    elif block:
        blocks = blocked(data, axis, block)
        low, high = blocks.amin(axis + 1), blocks.amax(axis + 1)
    else:
        flat = data.movedim(axis, 0).reshape(data.shape[axis], -1)
        low, high = flat.amin(1), flat.amax(1)
    return parameters_of_range(low, high, scheme)


def blocked(data: torch.Tensor, axis: int, block: int) -> torch.Tensor:
    """`data` with dimension `axis` split into blocks and what is within them; the last block is filled up with 0."""
    extent = data.shape[axis]
    count = -(-extent // block)
    if missing := count * block - extent:
        filling = data.new_zeros(*data.shape[:axis], missing, *data.shape[axis + 1 :])
        data = torch.cat([data, filling], axis)
    return data.reshape(*data.shape[:axis], count, block, *data.shape[axis + 1 :])


def fixed_parameters(values: Sequence[Value], target: Target) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Scale and zero point that the target insists on for the results of an operator that makes one of `values`."""
    for value in values:
        rule = target.rule(value.producer) if value.producer is not None else None
        if rule is not None and rule.output is not None:
            zero = torch.tensor(rule.output.zero_point).to(target.activation.dtype.torch)
            return torch.tensor(rule.output.scale, dtype=torch.float32), zero
    return None
