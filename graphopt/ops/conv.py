"""Convolutions: Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, Shape, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels
from graphopt.ops.windows import same_pads, spatial_rank, window, window_extents


def infer_conv(node: Node) -> list[ValueType]:
    """Type rule of Conv: [N, M, extents...]."""
    x, w = input_type(node, 0), input_type(node, 1)
    if x.shape is None or w.shape is None:
        return [TensorType(x.dtype)]
    check_weight(node, x.shape, w.shape)
    check_bias(node, w.shape[0])
    return [TensorType(x.dtype, (x.shape[0], w.shape[0], *window_extents(node, x.shape[2:], w.shape[2:])))]


def check_weight(node: Node, x: Shape, w: Shape) -> None:
    """Raises ShapeError unless input [N, C, ...] and weight [M, C/group, ...] agree."""
    if len(x) != len(w) or len(x) < 3:
        raise ShapeError(
            f"input has rank {len(x)}, weight {len(w)}; both need the same, at least 3", where=node.describe()
        )
    group, channels, inner = attribute(node, "group"), x[1], w[1]
    if isinstance(channels, int) and isinstance(inner, int) and channels != group * inner:
        raise ShapeError(f"input has {channels} channels, weight expects {group} x {inner}", where=node.describe())
    if isinstance(w[0], int) and w[0] % group:
        raise ShapeError(f"{w[0]} output channels do not divide into {group} groups", where=node.describe())


def check_bias(node: Node, channels: Dim, index: int = 2) -> None:
    """Raises ShapeError unless input `index`, where there is one, has shape [channels]."""
    shape = input_type(node, index).shape
    if shape is None:
        return
    clash = len(shape) != 1 or (isinstance(shape[0], int) and isinstance(channels, int) and shape[0] != channels)
    if clash:
        raise ShapeError(f"bias has shape {list(shape)}, expected [{channels}]", where=node.describe())


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
    rank = spatial_rank(x, "Conv")
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
    """Channels in and out, both within their groups; spatial dimensions are frozen."""
    sizes = {"g": attribute(node, "group")}
    return labels(node, "n (g i) *, (g o) i *, (g o) -> n (g o) *", sizes, attributes={"group": "g"})


def conv_macs(node: Node) -> Dim:
    """Multiply-accumulates of Conv: every output element sums over a group's channels and the window."""
    w, y = node.operand(1).shape, node.output.shape
    return None if w is None or y is None else D.mul(D.product(w[1:]), D.product(y))


# -- ConvTranspose


def _transposed_full(size: Dim, kernel: Dim, stride: int, dilation: int, extra: int) -> Dim:
    """Extent before pads are cut off."""
    return D.add(D.mul(D.add(size, -1), stride), D.mul(D.add(kernel, -1), dilation), 1 + extra)


def infer_conv_transpose(node: Node) -> list[ValueType]:
    """Type rule of ConvTranspose: [N, M, extents...] with M = group * W.shape[1]."""
    x, w = input_type(node, 0), input_type(node, 1)
    if x.shape is None or w.shape is None:
        return [TensorType(x.dtype)]
    group, rank = attribute(node, "group"), len(w.shape) - 2
    if len(x.shape) != len(w.shape) or rank < 1:
        raise ShapeError(f"input has rank {len(x.shape)}, weight {len(w.shape)}", where=node.describe())
    if isinstance(x.shape[1], int) and isinstance(w.shape[0], int) and x.shape[1] != w.shape[0]:
        raise ShapeError(f"input has {x.shape[1]} channels, weight expects {w.shape[0]}", where=node.describe())
    channels = D.mul(w.shape[1], group)
    check_bias(node, channels)
    strides, dilations, pads, auto_pad = window(node, rank)
    extra = list(attribute(node, "output_padding") or [0] * rank)
    stated = list(attribute(node, "output_shape") or ())[-rank:]
    if stated:
        return [TensorType(x.dtype, (x.shape[0], channels, *stated))]
    if auto_pad.startswith("SAME"):
        extents = [D.mul(size, s) for size, s in zip(x.shape[2:], strides, strict=True)]
        return [TensorType(x.dtype, (x.shape[0], channels, *extents))]
    cut = [0] * rank if auto_pad == "VALID" else [pads[i] + pads[rank + i] for i in range(rank)]
    extents = [
        D.add(_transposed_full(*each), -c)
        for *each, c in zip(x.shape[2:], w.shape[2:], strides, dilations, extra, cut, strict=True)
    ]
    return [TensorType(x.dtype, (x.shape[0], channels, *extents))]


def _transposed_targets(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    extra: Sequence[int], pads: Sequence[int], auto_pad: str, stated: Sequence[int],
) -> tuple[list[int], list[int]]:  # fmt: skip
    """For each spatial dimension the pads cut off its beginning, and its extent afterwards."""
    rank = len(kernel)
    fulls = [
        (size - 1) * s + d * (k - 1) + 1 + e
        for size, k, s, d, e in zip(sizes, kernel, strides, dilations, extra, strict=True)
    ]
    if not stated and auto_pad.startswith("SAME"):
        stated = [size * s for size, s in zip(sizes, strides, strict=True)]
    if not stated:
        pads = [0] * 2 * rank if auto_pad == "VALID" or not pads else pads
        return list(pads[:rank]), [f - pads[i] - pads[rank + i] for i, f in enumerate(fulls)]
    totals = [max(full - target, 0) for full, target in zip(fulls, stated, strict=True)]
    begins = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals]
    return begins, list(stated)


def conv_transpose(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),
    output_padding: Sequence[int] = (),
    output_shape: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> torch.Tensor:
    """ONNX ConvTranspose: x [N, C, ...], w [C, M/group, ...], b [M].

    Pads that torch cannot take (different at begin and end, or an output larger than what the windows reach) are cut
    from, or filled up around, the unpadded result.
    """
    rank = spatial_rank(x, "ConvTranspose")
    strides, dilations = list(strides) or [1] * rank, list(dilations) or [1] * rank
    extra = list(output_padding) or [0] * rank
    kernel, sizes = list(w.shape[2:]), list(x.shape[2:])
    begins, targets = _transposed_targets(
        sizes, kernel, strides, dilations, extra, pads, auto_pad, list(output_shape)[-rank:]
    )
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    reached = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)]
    rest = [t - (r - 2 * p) for t, r, p in zip(targets, reached, begins, strict=True)]
    if all(0 <= r < max(s, d) for r, s, d in zip(rest, strides, dilations, strict=True)):
        return function(x, w, b, strides, begins, rest, group, dilations)
    y = function(x, w, None, strides, 0, 0, group, dilations)
    amounts = [a for i in reversed(range(rank)) for a in (-begins[i], targets[i] + begins[i] - reached[i])]
    y = F.pad(y, amounts)
    return y if b is None else y + b.reshape(-1, *[1] * rank)


def relate_conv_transpose(node: Node) -> Relation:
    """As Conv's relation, with the weight's input channels first."""
    sizes = {"g": attribute(node, "group")}
    return labels(node, "n (g i) *, (g i) o *, (g o) -> n (g o) *", sizes, attributes={"group": "g"})


def conv_transpose_macs(node: Node) -> Dim:
    """Multiply-accumulates of ConvTranspose: every input element meets a group's output channels and the window."""
    x, w = node.operand(0).shape, node.operand(1).shape
    return None if x is None or w is None else D.mul(D.product(w[1:]), D.product(x))


register(
    Operator("Conv", infer_conv, conv, relate_conv, conv_macs),
    Operator("ConvTranspose", infer_conv_transpose, conv_transpose, relate_conv_transpose, conv_transpose_macs),
)

__all__ = [
    "check_bias", "check_weight", "conv", "conv_macs", "conv_transpose", "infer_conv", "infer_conv_transpose",
    "relate_conv", "same_pads", "window", "window_extents",
]  # fmt: skip
