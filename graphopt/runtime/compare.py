"""Comparing what two graphs compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Difference:
    """How far results are from a reference.

    Attributes:
        max_abs: largest absolute difference.
        max_rel: `max_abs` over the largest magnitude of the reference (1 when it is all zero).
        sqnr: signal to quantization noise ratio in dB; infinite for equal results.
        shapes_equal: all shapes and element types agree.
    """

    max_abs: float
    max_rel: float
    sqnr: float
    shapes_equal: bool = True

    def within(self, tolerance: float) -> bool:
        """True when shapes agree and the relative difference is at most `tolerance`."""
        return self.shapes_equal and self.max_rel <= tolerance


def difference(got: torch.Tensor, want: torch.Tensor) -> Difference:
    """Compares two tensors; NaN agrees with NaN and infinity with the same infinity."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return Difference(math.inf, math.inf, -math.inf, shapes_equal=False)
    if want.numel() == 0:
        return Difference(0.0, 0.0, math.inf)
    a, b = _real(got), _real(want)
    same = (a == b) | (a.isnan() & b.isnan())
    error = torch.where(same, torch.zeros_like(a), a - b)
    finite = torch.where(b.isfinite(), b, torch.zeros_like(b))
    max_abs = float(error.abs().max())
    if math.isnan(max_abs):
        return Difference(math.inf, math.inf, -math.inf)
    scale = float(finite.abs().max()) or 1.0
    noise, signal = float(error.square().sum()), float(finite.square().sum())
    ratio = math.inf if noise == 0 else signal / noise
    sqnr = ratio if ratio == math.inf else 10 * math.log10(ratio) if ratio > 0 else -math.inf
    return Difference(max_abs, max_abs / scale, sqnr)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return torch.view_as_real(tensor.to(torch.complex128)) if tensor.is_complex() else tensor.double()


def compare(got: Sequence[Any], want: Sequence[Any]) -> Difference:
    """The worst difference over several outputs; outputs that are no tensors must be equal.

    Raises ValueError when there are more of one than of the other.
    """
    worst = Difference(0.0, 0.0, math.inf)
    for mine, theirs in zip(got, want, strict=True):
        if not isinstance(mine, torch.Tensor) or not isinstance(theirs, torch.Tensor):
            each = Difference(0.0, 0.0, math.inf, shapes_equal=str(mine) == str(theirs))
        else:
            each = difference(mine, theirs)
        worst = Difference(
            max(worst.max_abs, each.max_abs),
            max(worst.max_rel, each.max_rel),
            min(worst.sqnr, each.sqnr),
            worst.shapes_equal and each.shapes_equal,
        )
    return worst
