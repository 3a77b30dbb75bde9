"""Sampling and assembling images: GridSample, AffineGrid, Col2Im."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type, integers, static_integers
from graphopt.ops.record import Operator, register
from graphopt.ops.refinement import freeze_all
from graphopt.ops.relation import Relation, labels
from graphopt.ops.vectors import IntVector, ints, vector_length

_TORCH_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def grid_sample(
    x: torch.Tensor,
    grid: torch.Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """ONNX GridSample: x [N, C, H, W] (or [N, C, D, H, W]) at positions grid [N, H', W', 2] in [-1, 1]."""
    return F.grid_sample(x, grid.to(x.dtype), _TORCH_MODES.get(mode, mode), padding_mode, bool(align_corners))


def infer_grid_sample(node: Node) -> list[ValueType]:
    x, grid = input_type(node, 0), input_type(node, 1)
    if x.shape is None or grid.shape is None:
        return [TensorType(x.dtype)]
    if len(x.shape) != len(grid.shape):
        raise ShapeError(f"input has rank {len(x.shape)}, grid {len(grid.shape)}", where=node.describe())
    return [x.with_shape((*x.shape[:2], *grid.shape[1:-1]))]


def relate_grid_sample(node: Node) -> Relation:
    return labels(node, "n c *, n * -> n c *")


def affine_grid(theta: torch.Tensor, size: IntVector, *, align_corners: int = 0) -> torch.Tensor:
    """ONNX AffineGrid: theta [N, 2, 3] (or [N, 3, 4]) and the size of the image to sample, as [N, C, H, W]."""
    return F.affine_grid(theta, ints(size), bool(align_corners))


def infer_affine_grid(node: Node) -> list[ValueType]:
    theta, size = input_type(node, 0), integers(node.input(1))
    length = vector_length(node.input(1))
    if size is None and length is None:
        return [TensorType(theta.dtype)]
    known: Sequence[Dim] = size or [None] * (length or 0)
    return [TensorType(theta.dtype, (known[0], *known[2:], len(known) - 2))]


# -- Col2Im


def col2im(
    x: torch.Tensor,
    image_shape: IntVector,
    block_shape: IntVector,
    *,
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> torch.Tensor:
    """ONNX Col2Im: columns x [N, C * prod(block), L] are added up to images [N, C, *image]."""
    image, block = ints(image_shape), ints(block_shape)
    rank = len(image)
    dilations, strides = list(dilations) or [1] * rank, list(strides) or [1] * rank
    pads = list(pads) or [0] * 2 * rank
    canvas = [size + pads[d] + pads[d + rank] for d, size in enumerate(image)]
    index = torch.zeros((), dtype=torch.int64)
    for d in range(rank):
        reach = dilations[d] * (block[d] - 1) + 1
        starts = torch.arange((canvas[d] - reach) // strides[d] + 1) * strides[d]
        place = torch.arange(block[d])[:, None] * dilations[d] + starts
        # index is [blocks so far, columns so far]; a further dimension is the inner one of both
        index = index.reshape(-1, 1, index.shape[-1] if index.dim() else 1, 1) * canvas[d] + place[None, :, None, :]
        index = index.reshape(index.shape[0] * index.shape[1], -1)
    n, c = x.shape[0], x.shape[1] // math.prod(block)
    flat = x.new_zeros(n, c, math.prod(canvas))
    flat = flat.index_add(2, index.reshape(-1).to(x.device), x.reshape(n, c, -1))
    whole = flat.reshape(n, c, *canvas)
    for d in range(rank):
        whole = whole.narrow(d + 2, pads[d], image[d])
    return whole


def infer_col2im(node: Node) -> list[ValueType]:
    x, image, block = input_type(node, 0), integers(node.input(1)), integers(node.input(2))
    length = vector_length(node.input(1))
    if image is None and length is None:
        return [TensorType(x.dtype)]
    extents: Sequence[Dim] = image or [None] * (length or 0)
    batch, columns = (None, None) if x.shape is None else x.shape[:2]
    channels = None if block is None else D.floor_div(columns, D.product(block))
    return [TensorType(x.dtype, (batch, channels, *extents))]


def relate_col2im(node: Node) -> Relation:
    block = static_integers(node.input(2))
    if block is None:
        relation = Relation()
        freeze_all(relation, "the size of its blocks is not known", node.operand(0), node.output)
        return relation
    return labels(node, "n (c !k) *, *, * -> n c *", {"k": math.prod(block)}, {"k": "it is a spatial dimension"})


register(
    Operator("GridSample", infer_grid_sample, grid_sample, relate_grid_sample),
    Operator("AffineGrid", infer_affine_grid, affine_grid),
    Operator("Col2Im", infer_col2im, col2im, relate_col2im),
)

__all__ = ["affine_grid", "col2im", "grid_sample"]
