"""Entropy calibration: the range that keeps the distribution of the values best."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import rel_entr

from graphopt.passes.quantize.observers import Histogram, Range
from graphopt.targets import Scheme

_CANDIDATES = 128
_LEAST = 1e-4  # what an empty place of a distribution counts as, in place of the logarithm of zero

Counts = NDArray[np.float64]


class Entropy(Histogram):
    """The range with the least Kullback-Leibler divergence of what is left of the distribution from all of it.

    A range is cut at the same magnitude on both sides, as far as there are values. The reference has the values beyond
    in its end bins; what is left has one number per step of the grid, spread over the bins that are not empty (Migacz,
    8-bit inference with TensorRT, GTC 2017). Zeros do not count: every grid holds them exactly.

    Args:
        bins: number of bins, a multiple of 4.
    """

    def __init__(self, bins: int = 4096) -> None:
        super().__init__(bins)

    def range(self, scheme: Scheme) -> Range:
        low, high = self.exact.range(scheme)
        if self.width == 0:
            return low, high
        least, greatest = scheme.limits
        levels = int(greatest - least)
        one_sided = not scheme.symmetric and (low >= 0 or high <= 0)
        sides = 1 if one_sided else 2
        last = min(self.half, int(np.ceil(float(torch.maximum(low.abs(), high.abs())) / self.width)))
        first = -(-levels // sides)
        if first >= last:
            return low, high
        candidates = np.unique(np.linspace(first, last, _CANDIDATES).astype(int))
        found = [self.divergence(int(reach), levels, scheme) for reach in candidates]
        limit = torch.tensor(float(candidates[int(np.argmin(found))]) * self.width, dtype=torch.float64)
        return torch.maximum(low, -limit), torch.minimum(high, limit)

    def divergence(self, reach: int, levels: int, scheme: Scheme) -> float:
        """The divergence when magnitudes up to `reach` bins are kept, in `levels` steps of equal width."""
        counts: Counts = self.counts.numpy()
        start, stop = self.half - reach, self.half + reach
        if not scheme.symmetric:
            start = self.half if self.exact.low >= 0 else start
            stop = self.half if self.exact.high <= 0 else stop
        kept = counts[start:stop]
        whole = kept.copy()
        whole[0] += counts[:start].sum()
        whole[-1] += counts[stop:].sum()
        step = np.arange(len(kept)) * levels // len(kept)
        occupied = whole > 0
        shared = np.bincount(step, occupied, levels)
        mean = np.bincount(step, kept, levels) / np.maximum(shared, 1)
        reference, rest = _smooth(whole), _smooth(np.where(occupied, mean[step], 0.0))
        return float(rel_entr(reference / reference.sum(), rest / rest.sum()).sum())


def _smooth(counts: Counts) -> Counts:
    """The distribution, empty places at a little more than zero, which the others give up."""
    empty = counts == 0
    full = len(counts) - int(empty.sum())
    if not full:
        return np.full(len(counts), 1 / len(counts))
    given = _LEAST * (len(counts) - full) / full
    return np.where(empty, _LEAST, np.maximum(counts - given, _LEAST))
