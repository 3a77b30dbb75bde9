"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels


def window(node: Node, rank: int, kernel: Sequence[Dim]) -> tuple[list[int], list[int], list[int], str]:
    """Strides, dilations, pads (begins, then ends) and auto_pad of a sliding-window operator, defaults filled in.

    Args:
        node: the operator.
        rank: number of spatial dimensions.
        kernel: extent of the window.
    """
    strides = list(attribute(node, "strides") or [1] * rank)
    dilations = list(attribute(node, "dilations") or [1] * rank)
    pads = list(attribute(node, "pads") or [0] * 2 * rank)
    return strides, dilations, pads, attribute(node, "auto_pad") or "NOTSET"


def _conv_extent(size: Dim, kernel: Dim, stride: int, dilation: int, begin: int, end: int, auto_pad: str) -> Dim:
    if auto_pad.startswith("SAME"):
        return D.ceil_div(size, stride)
    if auto_pad == "VALID":
        begin = end = 0
    reach = D.add(D.mul(dilation, D.add(kernel, -1)), 1)
    return D.add(D.floor_div(D.add(size, begin + end, D.mul(reach, -1)), stride), 1)


def infer_conv(node: Node) -> list[ValueType]:
    x, w = input_type(node, 0), input_type(node, 1)
    if x.shape is None or w.shape is None:
        return [TensorType(x.dtype)]
    if len(x.shape) != len(w.shape):
        raise ShapeError(f"input has rank {len(x.shape)}, weight {len(w.shape)}", where=node.describe())
    group, channels, per_group = attribute(node, "group"), x.shape[1], w.shape[1]
    if isinstance(channels, int) and isinstance(per_group, int) and channels != group * per_group:
        raise ShapeError(
            f"input has {channels} channels, weight expects {group} x {per_group}", where=node.describe()
        )
    kernel = w.shape[2:]
    strides, dilations, pads, auto_pad = window(node, len(kernel), kernel)
    half = len(kernel)
    spatial = [
        _conv_extent(*each, auto_pad)
        for each in zip(x.shape[2:], kernel, strides, dilations, pads[:half], pads[half:], strict=True)
    ]
    return [TensorType(x.dtype, (x.shape[0], w.shape[0], *spatial))]


def same_pads(extents: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
              auto_pad: str) -> list[int]:  # fmt: skip
    """Pads (begins, then ends) of auto_pad SAME_UPPER or SAME_LOWER for known spatial extents."""
    totals = [
        max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        for size, k, s, d in zip(extents, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return small + large if auto_pad == "SAME_UPPER" else large + small


def conv(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> torch.Tensor:
    """ONNX Conv: x [N, C, ...], w [M, C/group, ...], b [M]; pads as begins, then ends."""
    rank = x.dim() - 2
    strides, dilations = list(strides) or [1] * rank, list(dilations) or [1] * rank
    pads = [0] * 2 * rank if auto_pad == "VALID" or not pads else list(pads)
    if auto_pad.startswith("SAME"):
        pads = same_pads(x.shape[2:], w.shape[2:], strides, dilations, auto_pad)
    begins, ends = pads[:rank], pads[rank:]
    if begins != ends:
        both = [p for pair in zip(reversed(begins), reversed(ends), strict=True) for p in pair]
        x, begins = F.pad(x, both), [0] * rank
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return function(x, w, b, strides, begins, dilations, group)


def relate_conv(node: Node) -> Relation:
    sizes = {"g": attribute(node, "group")}
    reasons = {"*": "spatial"}
    return labels(node, "n (g i) *, (g o) i *, (g o) -> n (g o) *", sizes, reasons, attributes={"group": "g"})


def conv_macs(node: Node) -> Dim:
    w, y = node.operand(1).shape, node.output.shape
    return None if w is None or y is None else D.mul(D.product(w[1:]), D.product(y))


register(Operator("Conv", infer_conv, conv, relate_conv, conv_macs))

__all__ = ["conv", "infer_conv", "same_pads", "window"]
