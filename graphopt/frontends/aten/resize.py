"""Interpolation and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.frontends.aten.builder import Builder, Size, numbers, rank_of
from graphopt.frontends.aten.registry import converts
from graphopt.ir import Value

_NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_NEAREST_EXACT = {
    "mode": "nearest",
    "coordinate_transformation_mode": "half_pixel",
    "nearest_mode": "round_prefer_ceil",
}


def _resize(
    c: Builder, x: Value, output_size: Sequence[Size] | None, scales: Sequence[float] | None, attributes: dict[str, Any]
) -> Value:
    """By sizes, or by factors, which torch also uses for the coordinates."""
    lead = rank_of(x) - len(output_size or scales or ())
    if scales is not None:
        factors = c.constant(torch.tensor([1.0] * lead + [float(s) for s in scales]))
        return c.emit("Resize", x, None, factors, **attributes)
    sizes = [c.size(x, i) for i in range(lead)] + list(output_size or ())
    return c.emit("Resize", x, None, None, c.vector(sizes), **attributes)


def _nearest(attributes: dict[str, Any], *names: str) -> None:
    @converts(*names)
    def convert(c: Builder, input: Value, output_size: Any = None, scale_factors: Any = None) -> Value:
        return _resize(c, input, output_size, scale_factors, attributes)


_nearest(_NEAREST, *(f"aten.upsample_nearest{rank}d.vec" for rank in (1, 2, 3)))
_nearest(_NEAREST_EXACT, *(f"aten._upsample_nearest_exact{rank}d.vec" for rank in (1, 2, 3)))


def _smooth(mode: str, antialias: bool, *names: str) -> None:
    @converts(*names)
    def convert(c: Builder, input: Value, output_size: Any, align_corners: bool, scale_factors: Any = None) -> Value:
        where = "align_corners" if align_corners else "half_pixel"
        attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": where}
        if mode == "cubic":
            attributes["cubic_coeff_a"] = -0.5 if antialias else -0.75
        if antialias:
            attributes |= {"antialias": 1, "exclude_outside": 1}
        return _resize(c, input, output_size, scale_factors, attributes)


_smooth("linear", False, "aten.upsample_linear1d.vec", "aten.upsample_bilinear2d.vec", "aten.upsample_trilinear3d.vec")
_smooth("cubic", False, "aten.upsample_bicubic2d.vec")
_smooth("linear", True, "aten._upsample_bilinear2d_aa.vec")
_smooth("cubic", True, "aten._upsample_bicubic2d_aa.vec")


@converts("aten.col2im.default")
def col2im(
    c: Builder,
    self: Value,
    output_size: Sequence[Size],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    blocks, unbatched = c.batched(self, 3)
    pads = numbers(padding, 2) * 2
    image = c.emit(
        "Col2Im", blocks, c.vector(output_size), c.ints(kernel_size),
        dilations=numbers(dilation, 2), pads=pads, strides=numbers(stride, 2),
    )  # fmt: skip
    return c.squeeze(image, 0) if unbatched else image


_SAMPLE = ("linear", "nearest", "cubic")
_OUTSIDE = ("zeros", "border", "reflection")


@converts("aten.grid_sampler.default", "aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def grid_sampler(
    c: Builder, input: Value, grid: Value, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Value:
    return c.emit(
        "GridSample", input, grid,
        mode=_SAMPLE[interpolation_mode], padding_mode=_OUTSIDE[padding_mode], align_corners=int(align_corners),
    )  # fmt: skip


@converts("aten.affine_grid_generator.default")
def affine_grid(c: Builder, theta: Value, size: Sequence[Size], align_corners: bool) -> Value:
    return c.emit("AffineGrid", theta, c.vector(size), align_corners=int(align_corners))
