"""Deformable convolution (https://arxiv.org/abs/1811.11168)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import Node, TensorType, ValueType
from graphopt.ops.conv import check_bias, check_weight, conv_macs
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels
from graphopt.ops.windows import window_extents


def infer_deform_conv(node: Node) -> list[ValueType]:
    """Type rule of DeformConv: [N, M, extents...]."""
    x, w = input_type(node, 0), input_type(node, 1)
    if x.shape is None or w.shape is None:
        return [TensorType(x.dtype)]
    check_weight(node, x.shape, w.shape)
    check_bias(node, w.shape[0], 3)
    return [TensorType(x.dtype, (x.shape[0], w.shape[0], *window_extents(node, x.shape[2:], w.shape[2:])))]


def _sample(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Bilinear samples of x [N, G, C, H, W] at positions [N, G, P]; zero outside. Returns [N, G, C, P]."""
    height, width = x.shape[-2:]
    flat = x.flatten(3)
    top, left = rows.floor(), columns.floor()
    result = x.new_zeros((*x.shape[:3], rows.shape[-1]))
    for dy in (0, 1):
        for dx in (0, 1):
            r, c = top + dy, left + dx
            weight = (1 - (rows - r).abs()) * (1 - (columns - c).abs())
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            index = (r.clamp(0, height - 1) * width + c.clamp(0, width - 1)).long()
            picked = flat.gather(3, index.unsqueeze(2).expand(-1, -1, x.shape[2], -1))
            result = result + picked * (weight * inside).unsqueeze(2)
    return result


def _positions(
    moves: torch.Tensor, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns [N, G, kH * kW * oH * oW] that windows look at, moved by `moves` [N, G, kH, kW, 2, oH, oW]."""
    k_y, k_x, _, o_y, o_x = moves.shape[2:]
    device = moves.device
    rows = (torch.arange(o_y, device=device) * strides[0] - pads[0])[:, None]
    columns = (torch.arange(o_x, device=device) * strides[1] - pads[1])[None, :]
    inner_rows = (torch.arange(k_y, device=device) * dilations[0])[:, None, None, None]
    inner_columns = (torch.arange(k_x, device=device) * dilations[1])[:, None, None]
    at_rows = (moves[:, :, :, :, 0] + rows + inner_rows).flatten(2)
    at_columns = (moves[:, :, :, :, 1] + columns + inner_columns).flatten(2)
    return at_rows, at_columns


def deform_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    offset: torch.Tensor,
    b: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),
    offset_group: int = 1,
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> torch.Tensor:
    """ONNX DeformConv over two spatial dimensions.

    Args:
        x: [N, C, H, W].
        w: [M, C/group, kH, kW].
        offset: [N, offset_group * kH * kW * 2, oH, oW], row and column offset of each window element in turn.
        b: [M].
        mask: [N, offset_group * kH * kW, oH, oW], a factor for each window element.
        dilations: steps inside the window.
        group: groups of channels.
        kernel_shape: as w's; not needed.
        offset_group: groups of input channels that share offsets.
        pads: begins, then ends.
        strides: steps between windows.

    Raises:
        UnsupportedOperatorError: for other than two spatial dimensions.
    """
    if x.dim() != 4:
        raise UnsupportedOperatorError(
            f"DeformConv over {x.dim() - 2} spatial dimensions cannot be computed with torch"
        )
    n, channels = x.shape[:2]
    moves = offset.reshape(n, offset_group, *w.shape[2:], 2, *offset.shape[2:])
    rows, columns = _positions(moves, strides or (1, 1), pads or (0, 0), dilations or (1, 1))
    patches = _sample(x.reshape(n, offset_group, channels // offset_group, *x.shape[2:]), rows, columns)
    if mask is not None:
        patches = patches * mask.reshape(n, offset_group, 1, -1)
    weight = w.reshape(group, w.shape[0] // group, -1)
    patches = patches.reshape(n, group, weight.shape[2], -1)
    y = torch.einsum("ngkp,gok->ngop", patches, weight).reshape(n, w.shape[0], *offset.shape[2:])
    return y if b is None else y + b.reshape(-1, 1, 1)


def relate_deform_conv(node: Node) -> Relation:
    """As Conv; with several offset groups the input channels must stay, for they pick the offsets."""
    sizes = {"g": attribute(node, "group")}
    relation = labels(
        node, "n (g i) *, (g o) i *, n * * *, (g o), n * * * -> n (g o) *", sizes, attributes={"group": "g"}
    )
    if attribute(node, "offset_group") > 1:
        reason = "several offset groups"
        relation.frozen.update({"i": reason, "g": reason})
    return relation


register(Operator("DeformConv", infer_deform_conv, deform_conv, relate_deform_conv, conv_macs))
