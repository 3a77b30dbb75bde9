"""Sliding windows: the geometry that convolutions and pools share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError, UnsupportedOperatorError
from graphopt.ir import Dim, Node
from graphopt.ir import dims as D


def window(node: Node, rank: int) -> tuple[list[int], list[int], list[int], str]:
    """Strides, dilations, pads (begins, then ends) and auto_pad of a sliding-window operator, defaults filled in.

    Args:
        node: the operator.
        rank: number of spatial dimensions.

    Raises:
        ShapeError: when an attribute has the wrong number of entries.
    """
    found = []
    for name, default in (("strides", [1] * rank), ("dilations", [1] * rank), ("pads", [0] * 2 * rank)):
        values = list(node.attributes.get(name) or default)
        if len(values) != len(default):
            raise ShapeError(
                f"{name} has {len(values)} entries, {rank} spatial dimensions need {len(default)}",
                where=node.describe(),
            )
        found.append(values)
    strides, dilations, pads = found
    return strides, dilations, pads, node.attributes.get("auto_pad") or "NOTSET"


def window_extent(
    size: Dim, kernel: Dim, stride: int, dilation: int, begin: int, end: int, auto_pad: str, ceil: bool = False
) -> Dim:
    """Number of positions of a window along one dimension.

    With `ceil` the last window may reach beyond the padded end, but never starts there (the rule of ONNX and torch).
    It also counts under auto_pad VALID, as in ONNX Runtime and onnx.shape_inference (the standard's text differs).
    """
    if auto_pad.startswith("SAME"):
        return D.ceil_div(size, stride)
    if auto_pad == "VALID":
        begin = end = 0
    reach = D.add(D.mul(dilation, D.add(kernel, -1)), 1)
    room = D.add(size, begin + end, D.mul(reach, -1))
    if not ceil:
        return D.add(D.floor_div(room, stride), 1)
    count = D.add(D.ceil_div(room, stride), 1)
    starts = D.ceil_div(D.add(size, begin), stride)
    if isinstance(reach, int) and end + stride <= reach:
        return count
    if count is None or starts is None:
        return None
    if isinstance(count, int) and isinstance(starts, int):
        return min(count, starts)
    import sympy

    return D.normalise(sympy.Min(count, starts))


def window_extents(node: Node, sizes: Sequence[Dim], kernel: Sequence[Dim], ceil: bool = False) -> tuple[Dim, ...]:
    """Spatial extents of the output of convolution or pool `node` over input extents `sizes`.

    Raises:
        ShapeError: when the window does not fit into the padded input.
    """
    half = len(kernel)
    strides, dilations, pads, auto_pad = window(node, half)
    extents = []
    for size, k, s, d, b, e in zip(sizes, kernel, strides, dilations, pads[:half], pads[half:], strict=True):
        extent = window_extent(size, k, s, d, b, e, auto_pad, ceil)
        if isinstance(extent, int) and extent <= 0 and size != 0:
            raise ShapeError(
                f"a window of {k} (dilation {d}) does not fit into {size} elements padded by {b} and {e}",
                where=node.describe(),
            )
        extents.append(extent)
    return tuple(extents)


def same_pads(extents: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
              auto_pad: str) -> list[int]:  # fmt: skip
    """Pads (begins, then ends) of auto_pad SAME_UPPER or SAME_LOWER for known spatial extents."""
    totals = [
        max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        for size, k, s, d in zip(extents, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return small + large if auto_pad == "SAME_UPPER" else large + small


@dataclass(frozen=True)
class Windows:
    """The windows of one application, all defaults and automatic pads resolved; one entry per spatial dimension.

    Attributes:
        kernel: extents of the window.
        strides: steps between windows.
        dilations: steps inside a window.
        begins: pads before the first element.
        ends: pads behind the last element, as stated by the operator.
        ceil: the last windows may reach beyond the padded end.
        same: pads were chosen so that there are ``ceil(size / stride)`` windows.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]
    ends: list[int]
    ceil: bool = False
    same: bool = False

    @classmethod
    def resolve(
        cls,
        x: torch.Tensor,
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        auto_pad: str,
        ceil: bool = False,
    ) -> Windows:
        """The windows over `x` [N, C, spatial...], from attributes as ONNX states them (empty where left out)."""
        rank = x.dim() - 2
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        pads = list(pads or [0] * 2 * rank)
        if auto_pad.startswith("SAME"):
            pads = same_pads(x.shape[2:], kernel, strides, dilations, auto_pad)
        elif auto_pad == "VALID":
            pads = [0] * 2 * rank
        begins, ends = pads[:rank], pads[rank:]
        return cls(list(kernel), strides, dilations, begins, ends, ceil, auto_pad.startswith("SAME"))

    @property
    def is_plain(self) -> bool:
        """True when torch's pools take these pads as they are: the same on both sides, and at most half a window."""
        return self.begins == self.ends and all(2 * b <= k for b, k in zip(self.begins, self.kernel, strict=True))

    def reach(self, dim: int, size: int) -> int:
        """Where the last window over `size` elements ends, counted from the first pad of spatial dimension `dim`.

        Plain arithmetic, so that torch may trace it with symbolic sizes.
        """
        stride, extent = self.strides[dim], self.dilations[dim] * (self.kernel[dim] - 1) + 1
        if self.same:
            return (-(-size // stride) - 1) * stride + extent
        begin, room = self.begins[dim], size + self.begins[dim] + self.ends[dim] - extent
        last = min(-(-room // stride), -(-(size + begin) // stride) - 1) if self.ceil else room // stride
        return last * stride + extent

    def pad(self, x: torch.Tensor, value: float, inner: float | None = None) -> torch.Tensor:
        """Pads (or crops) `x` so that exactly the windows fit.

        Args:
            x: [N, C, spatial...].
            value: of the pads.
            inner: of the pads that the operator states, where they differ from what windows reach beyond them.
        """
        rank = len(self.kernel)
        sizes = [self.reach(i, x.shape[2 + i]) for i in range(rank)]
        if inner is not None:
            x = F.pad(x, [p for i in reversed(range(rank)) for p in (self.begins[i], self.ends[i])], value=inner)
        begins = self.begins if inner is None else [0] * rank
        amounts = [p for i in reversed(range(rank)) for p in (begins[i], sizes[i] - x.shape[2 + i] - begins[i])]
        return F.pad(x, amounts, value=value)


def spatial_rank(x: torch.Tensor, what: str) -> int:
    """Number of spatial dimensions of `x` [N, C, spatial...]. Raises UnsupportedOperatorError unless 1, 2 or 3."""
    rank = x.dim() - 2
    if rank not in (1, 2, 3):
        raise UnsupportedOperatorError(
            f"{what} over {rank} spatial dimensions cannot be computed with torch",
            hint="1, 2 and 3 spatial dimensions can",
        )
    return rank
