"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.frontends.aten.builder import Builder, numbers, rank_of, require, shape_of, static
from graphopt.frontends.aten.registry import converts
from graphopt.ir import Value


@converts("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default",
          "aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")  # fmt: skip
def conv(
    c: Builder,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] | int = 1,
    padding: Sequence[int] | int | str = 0,
    dilation: Sequence[int] | int = 1,
    groups: int = 1,
) -> Value:
    rank = rank_of(weight)
    kernel = [static(d) for d in shape_of(weight)[2:]]
    dilations = numbers(dilation, rank - 2)
    x, unbatched = c.batched(input, rank)
    y = c.emit(
        "Conv", x, weight, bias,
        dilations=dilations, group=groups, kernel_shape=kernel, pads=_pads(padding, kernel, dilations),
        strides=numbers(stride, rank - 2),
    )  # fmt: skip
    return c.squeeze(y, 0) if unbatched else y


def _pads(padding: Sequence[int] | int | str, kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Begins, then ends; "same" puts the odd one at the end."""
    if padding == "valid":
        return [0] * 2 * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
        return [t // 2 for t in totals] + [t - t // 2 for t in totals]
    return numbers(padding, len(kernel)) * 2


@converts("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def conv_transpose(
    c: Builder,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] | int = 1,
    padding: Sequence[int] | int = 0,
    output_padding: Sequence[int] | int = 0,
    groups: int = 1,
    dilation: Sequence[int] | int = 1,
) -> Value:
    rank = rank_of(weight)
    x, unbatched = c.batched(input, rank)
    extra = numbers(output_padding, rank - 2)
    attributes: dict[str, Any] = {"output_padding": extra} if any(extra) else {}
    y = c.emit(
        "ConvTranspose", x, weight, bias,
        dilations=numbers(dilation, rank - 2), group=groups, kernel_shape=[static(d) for d in shape_of(weight)[2:]],
        pads=numbers(padding, rank - 2) * 2, strides=numbers(stride, rank - 2), **attributes,
    )  # fmt: skip
    return c.squeeze(y, 0) if unbatched else y


@converts("aten.convolution.default", "aten._convolution.default")
def convolution(
    c: Builder,
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *flags: bool,
) -> Value:
    if transposed:
        return conv_transpose(c, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(c, input, weight, bias, stride, padding, dilation, groups)


@converts("aten.conv_tbc.default")
def conv_tbc(c: Builder, self: Value, weight: Value, bias: Value, pad: int = 0) -> Value:
    """[time, batch, channel] with a weight [kernel, in, out]."""
    require(rank_of(self) == 3, "conv_tbc takes three dimensions")
    y = c.emit("Conv", c.transpose(self, [1, 2, 0]), c.transpose(weight, [2, 1, 0]), bias, pads=[pad, pad])
    return c.transpose(y, [2, 0, 1])
