"""Pools over regions of interest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from graphopt.ir import Dim, Node, TensorType, ValueType
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels

_BATCH = "regions count batches by index"


def _pooled(node: Node, height: int, width: int) -> list[ValueType]:
    x, rois = input_type(node, 0), input_type(node, 1)
    channels: Dim = None if x.shape is None else x.shape[1]
    count: Dim = None if rois.shape is None else rois.shape[0]
    return [TensorType(x.dtype, (count, channels, height, width))]


def infer_roi_align(node: Node) -> list[ValueType]:
    """Type rule of RoiAlign: [regions, C, output_height, output_width]."""
    return _pooled(node, attribute(node, "output_height"), attribute(node, "output_width"))


def infer_max_roi_pool(node: Node) -> list[ValueType]:
    """Type rule of MaxRoiPool: [regions, C, *pooled_shape]."""
    height, width = attribute(node, "pooled_shape")
    return _pooled(node, height, width)


def relate_roi(node: Node) -> Relation:
    """Channels and regions go through; batches are frozen, for the regions name them."""
    return labels(node, "!n c *, r *, r -> r c *", reasons={"n": _BATCH})


def _bilinear(start: float, size: float, bins: int, ratio: int, extent: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sampling along one dimension: indices [2, bins * grid] of both neighbours, their weights, samples per bin."""
    grid = ratio if ratio > 0 else math.ceil(size / bins)
    step = size / bins
    at = start + (torch.arange(bins * max(grid, 0), dtype=torch.float64) + 0.5) * (step / max(grid, 1))
    inside = (at >= -1) & (at <= extent)
    at = at.clamp(0, extent - 1)
    low = at.floor().long().clamp(max=extent - 1)
    high = (low + 1).clamp(max=extent - 1)
    part = at - low
    return torch.stack([low, high]), torch.stack([(1 - part) * inside, part * inside]), max(grid, 0)


def roi_align(
    x: torch.Tensor,
    rois: torch.Tensor,
    batch_indices: torch.Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> torch.Tensor:
    """ONNX RoiAlign (https://arxiv.org/abs/1703.06870).

    Args:
        x: [N, C, H, W].
        rois: [R, 4], left, top, right, bottom.
        batch_indices: [R].
        coordinate_transformation_mode: "half_pixel" or "output_half_pixel".
        mode: "avg", or "max" over the weighted neighbours of the samples, as ONNX has it.
        output_height: of the result.
        output_width: of the result.
        sampling_ratio: samples per bin and dimension; 0 for about one per element.
        spatial_scale: from the regions' coordinates to those of x.
    """
    half = coordinate_transformation_mode == "half_pixel"
    y = x.new_zeros(len(rois), x.shape[1], output_height, output_width)
    bounds = (rois.double() * spatial_scale - (0.5 if half else 0)).tolist()
    for r, ((left, top, right, bottom), n) in enumerate(zip(bounds, batch_indices.tolist(), strict=True)):
        height, width = bottom - top, right - left
        if not half:
            height, width = max(height, 1.0), max(width, 1.0)
        rows, row_weights, grid_y = _bilinear(top, height, output_height, sampling_ratio, x.shape[2])
        columns, column_weights, grid_x = _bilinear(left, width, output_width, sampling_ratio, x.shape[3])
        if not grid_y or not grid_x:
            continue
        neighbours = torch.stack([
            x[n][:, rows[i].to(x.device)][:, :, columns[j].to(x.device)]
            * (row_weights[i][:, None] * column_weights[j]).to(x)
            for i in (0, 1) for j in (0, 1)
        ])  # fmt: skip
        samples = neighbours.sum(0) if mode == "avg" else neighbours.amax(0)
        samples = samples.reshape(-1, output_height, grid_y, output_width, grid_x)
        y[r] = samples.mean((2, 4)) if mode == "avg" else samples.amax((2, 4))
    return y


def _round(x: float) -> int:
    """To the nearest integer, halves away from zero as in C."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def _edges(first: float, last: float, bins: int, extent: int, scale: float) -> list[tuple[int, int]]:
    """Begin and end of each bin of a region from `first` to `last`, cut to `extent`."""
    start, end = _round(first * scale), _round(last * scale)
    step = max(end - start + 1, 1) / bins
    return [
        (
            min(max(math.floor(b * step) + start, 0), extent),
            min(max(math.ceil((b + 1) * step) + start, 0), extent),
        )
        for b in range(bins)
    ]


def max_roi_pool(
    x: torch.Tensor, rois: torch.Tensor, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0
) -> torch.Tensor:
    """ONNX MaxRoiPool: x [N, C, H, W], rois [R, 5] as batch, left, top, right, bottom; zero for an empty bin."""
    y = x.new_zeros(len(rois), x.shape[1], *pooled_shape)
    for r, (n, left, top, right, bottom) in enumerate(rois.tolist()):
        rows = _edges(top, bottom, pooled_shape[0], x.shape[2], spatial_scale)
        columns = _edges(left, right, pooled_shape[1], x.shape[3], spatial_scale)
        for i, (row, row_end) in enumerate(rows):
            for j, (column, column_end) in enumerate(columns):
                if row < row_end and column < column_end:
                    y[r, :, i, j] = x[int(n), :, row:row_end, column:column_end].amax((1, 2))
    return y


register(
    Operator("RoiAlign", infer_roi_align, roi_align, relate_roi),
    Operator("MaxRoiPool", infer_max_roi_pool, max_roi_pool, relate_roi),
)

__all__ = ["max_roi_pool", "roi_align"]
