"""Observers: what calibration remembers of a tensor, in constant memory."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.targets import Scheme

Range = tuple[torch.Tensor, torch.Tensor]


class Observer(Protocol):
    """Sees the values of one tensor, sample by sample."""

    @property
    def finite(self) -> bool:
        """False once NaN or infinity was among the values."""
        ...

    def member(self) -> Observer:
        """What sees one of the tensors that share the range."""
        ...

    def see(self, values: torch.Tensor) -> None: ...

    def range(self, scheme: Scheme) -> Range:
        """The range to quantize in a scheme: two float64 scalars."""
        ...


class MinMax:
    """The least and the greatest value ever seen."""

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.finite = True

    def member(self) -> Observer:
        return self

    def see(self, values: torch.Tensor) -> None:
        if values.numel():
            low, high = (float(end) for end in torch.aminmax(values))  # NaN, where there is one
            self.finite &= math.isfinite(low) and math.isfinite(high)
            self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self, scheme: Scheme) -> Range:
        low, high = (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
        return torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)


class MovingAverage(MinMax):
    """The ends of batches, later ones counting more: of the mean of the ends before, each takes the place of a part.

    Tensors that share the range have averages of their own; the range holds all of them.

    Args:
        momentum: the part, as in torch's ``MovingAverageMinMaxObserver``.
    """

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.members: list[MovingAverage] = []

    def member(self) -> Observer:
        self.members.append(MovingAverage(self.momentum))
        return self.members[-1]

    def range(self, scheme: Scheme) -> Range:
        whole = MinMax()
        whole.low = min(each.low for each in (self, *self.members))
        whole.high = max(each.high for each in (self, *self.members))
        return whole.range(scheme)

    def see(self, values: torch.Tensor) -> None:
        if not values.numel():
            return
        low, high = (float(end) for end in torch.aminmax(values))
        self.finite &= math.isfinite(low) and math.isfinite(high)
        if self.low > self.high:  # nothing was seen before
            self.low, self.high = low, high
            return
        self.low += self.momentum * (low - self.low)
        self.high += self.momentum * (high - self.high)


class Histogram:
    """How often values fall where, and the exact extremes.

    Values are counted in a histogram of fixed size around zero. When a value falls outside, the width of the bins
    doubles until it fits, neighbouring bins being added up, so memory does not grow with the number of samples. Zeros
    are counted apart: every grid holds zero exactly, and after a ReLU they are half of all values.

    Args:
        bins: number of bins, a multiple of 4.
    """

    def __init__(self, bins: int = 2048) -> None:
        self.half = bins // 2
        self.counts = torch.zeros(bins, dtype=torch.float64)
        self.zeros = 0
        self.width = 0.0
        self.exact = MinMax()

    def member(self) -> Observer:
        return self

    def see(self, values: torch.Tensor) -> None:
        self.exact.see(values)
        largest = max(abs(self.exact.low), abs(self.exact.high))
        if not values.numel() or not self.finite or largest == 0:
            self.zeros += values.numel()
            return
        if self.width == 0.0:
            self.width = largest / self.half
        while largest > self.width * self.half:
            self._double()
        data = values.detach().float().flatten()
        # Truncated towards zero: 0 for a zero, 1 for what lies in the first bin above it, -1 below, and so on.
        places = (data / self.width).add_(data.sign()).to(torch.int32).add_(self.half + 1)
        counts = torch.bincount(places, minlength=2 * self.half + 3).double()
        counts[1] += counts[0]  # the ends themselves
        counts[-2] += counts[-1]
        self.zeros += int(counts[self.half + 1])
        self.counts[: self.half] += counts[1 : self.half + 1]
        self.counts[self.half :] += counts[self.half + 2 : -1]

    def share(self, other: Histogram) -> None:
        """Takes over what another has counted in bins as wide, or a whole number of times narrower."""
        factor = other.half // self.half
        self.counts, self.width = other.counts.view(-1, factor).sum(1), other.width * factor
        self.zeros, self.exact = other.zeros, other.exact

    def _double(self) -> None:
        merged = self.counts.view(-1, 2).sum(1)
        self.counts = torch.zeros_like(self.counts)
        quarter = self.half // 2
        self.counts[quarter : quarter + len(merged)] = merged
        self.width *= 2

    @property
    def finite(self) -> bool:
        return self.exact.finite

    @property
    def edges(self) -> torch.Tensor:
        """Borders of the bins, one more than there are bins."""
        return (torch.arange(len(self.counts) + 1, dtype=torch.float64) - self.half) * self.width

    def range(self, scheme: Scheme) -> Range:
        return self.exact.range(scheme)


class Percentile(Histogram):
    """The range that leaves out a small part of the values at either end.

    Args:
        percent: part of the values to keep, out of 100.
        bins: number of bins, a multiple of 4.
    """

    def __init__(self, percent: float, bins: int = 4096) -> None:
        super().__init__(bins)
        self.percent = percent

    def range(self, scheme: Scheme) -> Range:
        low, high = self.exact.range(scheme)
        counts = self.counts.clone()
        counts[self.half] += self.zeros
        total = float(counts.sum())
        if total == 0 or self.width == 0:
            return low, high
        cut = total * (1 - self.percent / 100) / 2
        cumulative = counts.cumsum(0)
        first = int(torch.searchsorted(cumulative, cut, right=True))
        last = int(torch.searchsorted(cumulative, total - cut))
        edges = self.edges
        return torch.maximum(low, edges[first]), torch.minimum(high, edges[min(last + 1, len(counts))])


class MeanSquareError(Histogram):
    """The range with the least mean square error of quantization, rounding and clipping together."""

    def range(self, scheme: Scheme) -> Range:
        low, high = self.exact.range(scheme)
        if self.width == 0:
            return low, high
        parts = torch.linspace(1.0, 0.2, 65, dtype=torch.float64)
        best = low, high
        for _ in range(1 if scheme.symmetric else 2):  # the ends in turn; they hardly depend on each other
            if scheme.symmetric:
                best = self._best(parts * low, parts * high, scheme)
                continue
            if high > 0:
                best = self._best(best[0].expand_as(parts), parts * high, scheme)
            if low < 0:
                best = self._best(parts * low, best[1].expand_as(parts), scheme)
        return best

    def _best(self, low: torch.Tensor, high: torch.Tensor, scheme: Scheme) -> Range:
        errors = self.errors(low, high, scheme)
        index = int(errors.argmin())
        return low[index], high[index]

    def errors(self, low: torch.Tensor, high: torch.Tensor, scheme: Scheme) -> torch.Tensor:
        """The sum of squared errors of each range [low[i], high[i]], values being spread evenly within their bins.

        The error of x on a grid of step s is ``x - s * round(x / s)``, and beyond the ends of the grid the distance to
        them; the integral of its square over a bin has a closed form.
        """
        scale, zero = parameters_of_range(low, high, scheme)
        step, offset = scale.double()[:, None], zero.double()[:, None]
        least, greatest = scheme.limits
        bottom, top = (least - offset) * step, (greatest - offset) * step
        occupied = self.counts.nonzero().flatten()
        edges = self.edges
        left, right = (_integral(edges[at][None, :], step, bottom, top) for at in (occupied, occupied + 1))
        return ((right - left) * self.counts[occupied]).sum(1) / self.width


def _integral(x: torch.Tensor, step: torch.Tensor, bottom: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Antiderivative of the squared error at x, up to a constant."""
    inside = torch.minimum(torch.maximum(x, bottom), top) / step
    whole = inside.round()
    rounding = step**3 * (whole / 12 + (inside - whole) ** 3 / 3)
    beyond = (x - top).clamp(min=0) ** 3 / 3 + (x - bottom).clamp(max=0) ** 3 / 3
    return rounding + beyond
