"""Convolution weights as numbers: groups taken apart, windows laid over one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import Node
from graphopt.ops import attribute


@dataclass(frozen=True)
class Window:
    """What a convolution reads along one spatial dimension.

    Attributes:
        extent: elements of the kernel.
        dilation: distance between them.
        begin: zeros in front.
        end: zeros behind.
        stride: distance between two windows.
    """

    extent: int
    dilation: int = 1
    begin: int = 0
    end: int = 0
    stride: int = 1

    @property
    def slack(self) -> int:
        """By how much the output, before the stride, is longer than the input; less one."""
        return self.begin + self.end - (self.extent - 1) * self.dilation


def windows(node: Node, kernel: Sequence[int]) -> list[Window] | None:
    """The windows of a convolution, one for each spatial dimension; ``None`` when its pads depend on the input's size.

    Args:
        node: Conv or ConvTranspose.
        kernel: extents of its kernel.
    """
    auto = node.attributes.get("auto_pad") or "NOTSET"
    if auto not in ("NOTSET", "VALID"):
        return None
    rank = len(kernel)
    strides, dilations = (attribute(node, name) or [1] * rank for name in ("strides", "dilations"))
    pads = (auto == "NOTSET" and node.attributes.get("pads")) or [0] * (2 * rank)
    return [Window(kernel[i], dilations[i], pads[i], pads[i + rank], strides[i]) for i in range(rank)]


def attributes_of(found: Sequence[Window], group: int) -> dict[str, Any]:
    """The attributes of a convolution with these windows; ``None`` for what is as by default."""
    strides, dilations = [w.stride for w in found], [w.dilation for w in found]
    pads = [*(w.begin for w in found), *(w.end for w in found)]
    return {
        "auto_pad": None,
        "dilations": dilations if any(d != 1 for d in dilations) else None,
        "group": group if group != 1 else None,
        "kernel_shape": [w.extent for w in found],
        "pads": pads if any(pads) else None,
        "strides": strides if any(s != 1 for s in strides) else None,
    }


def union(a: Window, b: Window) -> Window | None:
    """The least window that reads what `a` and `b` read, for the same outputs; ``None`` when there is none."""
    step = b.dilation if a.extent == 1 else a.dilation
    if a.stride != b.stride or a.slack != b.slack or (a.extent > 1 < b.extent and a.dilation != b.dilation):
        return None
    begin = max(a.begin, b.begin)
    last = max(w.end for w in (a, b))
    reach = begin + last - a.slack
    step = 1 if a.extent == b.extent == 1 else step
    if any((begin - w.begin) % step for w in (a, b)) or reach % step:
        return None
    return Window(reach // step + 1, step, begin, last, a.stride)


def laid_over(weight: torch.Tensor, own: Sequence[Window], whole: Sequence[Window]) -> torch.Tensor:
    """The weight [out, in, *kernel] of the windows `own`, with zeros around, as one of the windows `whole`."""
    made = weight.new_zeros(*weight.shape[:2], *(w.extent for w in whole))
    places = [slice(None), slice(None)]
    for mine, w in zip(own, whole, strict=True):
        first = (w.begin - mine.begin) // w.dilation
        places.append(slice(first, first + mine.extent))
    made[tuple(places)] = weight
    return made


def regrouped(weight: torch.Tensor, group: int, wanted: int) -> torch.Tensor:
    """The weight [out, in / group, ...] of a convolution with `group` groups as one of fewer: [out, in / wanted, ...].

    Args:
        weight: of any number of trailing dimensions.
        group: its groups.
        wanted: a divisor of `group`.
    """
    if group == wanted:
        return weight
    rows, columns, ratio = weight.shape[0] // group, weight.shape[1], group // wanted
    made = weight.new_zeros(weight.shape[0], columns * ratio, *weight.shape[2:])
    for number in range(group):
        place = number % ratio * columns
        made[number * rows : (number + 1) * rows, place : place + columns] = weight[number * rows : (number + 1) * rows]
    return made


def dirac(factors: torch.Tensor, group: int, rank: int) -> torch.Tensor:
    """The weight [C, C / group, 1, ...] that multiplies channel i with ``factors[i]``."""
    count = len(factors)
    return regrouped(factors.reshape(count, 1, *[1] * rank), count, group)
