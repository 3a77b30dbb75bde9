"""Interpolation along single axes, as ONNX Resize defines it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Filter:
    """How Resize interpolates; the fields are its attributes of the same or similar names."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_a: float = -0.75
    antialias: bool = False
    exclude_outside: bool = False
    extrapolation: float = 0.0


@dataclass(frozen=True)
class Stretch:
    """The resizing of one axis: sizes before and after, the factor, and the region of interest in fractions."""

    axis: int
    old: int
    new: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


def source_positions(stretch: Stretch, coordinates: str) -> torch.Tensor:
    """For each new index the position in the old axis; float32, as ONNX Runtime computes it."""
    old, new = stretch.old, stretch.new
    scale = torch.tensor(stretch.scale, dtype=torch.float32)
    index = torch.arange(new, dtype=torch.float32)
    if coordinates == "asymmetric":
        return index / scale
    if coordinates == "align_corners":
        return index * 0 if new == 1 else index * (old - 1) / (new - 1)
    if coordinates == "tf_crop_and_resize":
        start, end = stretch.region
        if new == 1:
            return index * 0 + 0.5 * (start + end) * (old - 1)
        return start * (old - 1) + index * (end - start) * (old - 1) / (new - 1)
    if coordinates == "pytorch_half_pixel" and new == 1:
        return index * 0
    centered = (index + 0.5) / scale
    if coordinates == "half_pixel_symmetric":
        centered = old / 2 * (1 - new / (scale * old)) + centered
    return centered - 0.5


def _nearest(position: torch.Tensor, mode: str) -> torch.Tensor:
    if mode == "round_prefer_ceil":
        return (position + 0.5).floor()
    if mode == "floor":
        return position.floor()
    return position.ceil() if mode == "ceil" else (position - 0.5).ceil()


def _cubic(distance: torch.Tensor, a: float) -> torch.Tensor:
    x = distance.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def taps(stretch: Stretch, how: Filter) -> tuple[torch.Tensor, torch.Tensor]:
    """Old indices and their weights for each new index, both [new, taps]. Keys' cubic convolution, or triangles."""
    position = source_positions(stretch, how.coordinates)
    if how.mode == "nearest":
        index = _nearest(position, how.nearest_mode)[:, None]
        weights = torch.ones_like(index)
    else:
        squeeze = min(stretch.scale, 1.0) if how.antialias else 1.0
        reach = math.ceil((2 if how.mode == "cubic" else 1) / squeeze)
        index = position.floor()[:, None] + torch.arange(1 - reach, reach + 1)
        distance = (index - position[:, None]) * squeeze
        weights = _cubic(distance, how.cubic_a) if how.mode == "cubic" else (1 - distance.abs()).clamp(min=0)
        if how.antialias:
            weights = weights / weights.sum(1, keepdim=True)
    if how.exclude_outside and how.mode != "nearest":
        weights = torch.where((index >= 0) & (index <= stretch.old - 1), weights, 0.0)
        weights = weights / weights.sum(1, keepdim=True)
    return index.clamp(0, stretch.old - 1).long(), weights


def resize_axis(x: torch.Tensor, stretch: Stretch, how: Filter) -> torch.Tensor:
    """Resizes one axis of a floating point tensor (of any tensor in mode nearest)."""
    index, weights = (t.to(x.device) for t in taps(stretch, how))
    if how.mode == "nearest":
        x = x.index_select(stretch.axis, index[:, 0])
    else:
        shape = [-1 if d == stretch.axis else 1 for d in range(x.dim())]
        parts = [
            x.index_select(stretch.axis, index[:, k]) * weights[:, k].to(x.dtype).reshape(shape)
            for k in range(index.shape[1])
        ]
        x = torch.stack(parts).sum(0)
    if how.coordinates != "tf_crop_and_resize":
        return x
    position = source_positions(stretch, how.coordinates).to(x.device)
    outside = (position < 0) | (position > stretch.old - 1)
    return x.masked_fill(outside.reshape([-1 if d == stretch.axis else 1 for d in range(x.dim())]), how.extrapolation)


def torch_interpolate(x: torch.Tensor, stretches: Sequence[Stretch], how: Filter) -> torch.Tensor | None:
    """The same by ``torch.nn.functional.interpolate``, where that gives the same result; else ``None``."""
    mode = _torch_mode(x, stretches, how)
    if mode is None:
        return None
    size = list(x.shape[2:])
    for stretch in stretches:
        size[stretch.axis - 2] = stretch.new
    if mode == "nearest":
        return F.interpolate(x, size, mode=mode)
    return F.interpolate(x, size, mode=mode, align_corners=how.coordinates == "align_corners")


def _torch_mode(x: torch.Tensor, stretches: Sequence[Stretch], how: Filter) -> str | None:
    if not x.is_floating_point() or x.dim() not in (3, 4, 5) or x.numel() == 0 or how.antialias:
        return None
    if any(s.axis < 2 or s.new == 0 or s.scale != s.new / s.old for s in stretches):
        return None
    if how.mode == "nearest":
        whole = all(s.new % s.old == 0 for s in stretches)
        asymmetric = how.coordinates == "asymmetric" and how.nearest_mode == "floor"
        centered = how.coordinates == "half_pixel" and how.nearest_mode.startswith("round")
        return "nearest" if whole and (asymmetric or centered) else None
    pytorch = how.coordinates == "pytorch_half_pixel" and all(s.new > 1 for s in stretches)
    if not pytorch and how.coordinates not in ("half_pixel", "align_corners"):
        return None
    if how.mode == "linear":
        return ("linear", "bilinear", "trilinear")[x.dim() - 3]
    return "bicubic" if x.dim() == 4 and how.cubic_a == -0.75 and not how.exclude_outside else None


__all__ = ["Filter", "Stretch", "resize_axis", "source_positions", "taps", "torch_interpolate"]
