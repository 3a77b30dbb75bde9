"""Observers: what calibration remembers of a tensor, in constant memory."""

from __future__ import annotations

from typing import Protocol

import torch


class Observer(Protocol):
    """Sees the values of one tensor, sample by sample."""

    def see(self, values: torch.Tensor) -> None: ...

    def range(self) -> tuple[float, float]:
        """The range to quantize."""
        ...


class MinMax:
    """The least and the greatest value ever seen."""

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")

    def see(self, values: torch.Tensor) -> None:
        if values.numel():
            low, high = torch.aminmax(values)
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def range(self) -> tuple[float, float]:
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)


class Percentile:
    """The range that leaves out a small part of the values at either end.

    Values are counted in a histogram of fixed size around zero. When a value falls outside, the width of the bins
    doubles until it fits, neighbouring bins being added up, so memory does not grow with the number of samples.

    Args:
        percent: part of the values to keep, out of 100.
        bins: number of bins, a multiple of 4.
    """

    def __init__(self, percent: float, bins: int = 4096) -> None:
        self.percent = percent
        self.half = bins // 2
        self.counts = torch.zeros(bins, dtype=torch.float64)
        self.width = 0.0
        self.exact = MinMax()

    def see(self, values: torch.Tensor) -> None:
        self.exact.see(values)
        data = values.detach().float().flatten()
        largest = float(data.abs().max()) if data.numel() else 0.0
        if largest == 0.0:
            self.counts[self.half] += data.numel()
            return
        if self.width == 0.0:
            self.width = largest / self.half
        while largest > self.width * self.half:
            self._double()
        span = self.width * self.half
        self.counts += torch.histc(data, len(self.counts), -span, span).double()

    def _double(self) -> None:
        merged = self.counts.view(-1, 2).sum(1)
        self.counts = torch.zeros_like(self.counts)
        quarter = self.half // 2
        self.counts[quarter : quarter + len(merged)] = merged
        self.width *= 2

    def range(self) -> tuple[float, float]:
        low, high = self.exact.range()
        total = float(self.counts.sum())
        if total == 0 or self.width == 0:
            return low, high
        cut = total * (1 - self.percent / 100) / 2
        cumulative = self.counts.cumsum(0)
        first = int(torch.searchsorted(cumulative, cut, right=True))
        last = int(torch.searchsorted(cumulative, total - cut))
        edges = (first - self.half) * self.width, (last + 1 - self.half) * self.width
        return max(low, edges[0]), min(high, edges[1])
