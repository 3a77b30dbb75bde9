"""Fitting the numbers of weights: ranges, break-points, codebooks, by least square error.

A weight is looked at as rows: the elements that share one set of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from graphopt.ir import DType
from graphopt.passes.quantize.scales import blocked, parameters_of_range
from graphopt.targets import Scheme

Search: TypeAlias = Literal["minmax", "mse"]

#: Ranges tried between this part of the whole range and all of it.
_LEAST_PART, _PARTS = 0.4, 31
_BREAKS = 45
#: Rounds of Lloyd's algorithm; one-dimensional tables settle long before.
_ROUNDS = 60


def storage(bits: int, symmetric: bool) -> DType:
    """The smallest of ONNX's integer types that holds `bits` bits, from 2 to 16."""
    kind = "INT" if symmetric else "UINT"
    return DType[f"{kind}{next(size for size in (4, 8, 16) if bits <= size)}"]


def rows_of(weight: torch.Tensor, axis: int | None, block: int = 0) -> torch.Tensor:
    """The weight as [rows, elements], float32: a row per scale, as `weight_parameters` orders them."""
    data = weight.detach().float()
    if axis is None:
        return data.reshape(1, -1)
    if block:
        split = blocked(data, axis, block)
        return split.movedim(axis + 1, -1).reshape(-1, block)
    return data.movedim(axis, 0).reshape(data.shape[axis], -1)


def fit_range(rows: torch.Tensor, scheme: Scheme, search: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest value of the range of each row.

    Args:
        rows: [rows, elements].
        scheme: the numbers.
        search: "minmax" takes the whole range, "mse" the part of it with the least square error.

    Returns:
        Two vectors [rows].
    """
    low, high = rows.amin(1), rows.amax(1)
    if search == "minmax":
        return low, high
    best = torch.full_like(low, torch.inf)
    part = torch.ones_like(low)
    for each in torch.linspace(_LEAST_PART, 1, _PARTS).tolist():
        scale, zero = parameters_of_range(low * each, high * each, scheme)
        error = (rounded(rows, scale, zero, scheme) - rows).square().sum(1)
        better = error < best
        best, part = torch.where(better, error, best), torch.where(better, each, part)
    return low * part, high * part


def rounded(rows: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """What quantization leaves of rows [rows, elements], with a scale and zero point per row."""
    step, offset = scale[:, None], zero.float()[:, None]
    if scheme.dtype.is_float:
        limit = scheme.limits[1]
        return (rows / step).clamp(-limit, limit).to(scheme.dtype.torch).float() * step
    return (((rows / step).round() + offset).clamp(*scheme.limits) - offset) * step


@dataclass(frozen=True)
class Piecewise:
    """Two uniform grids per row: a dense one up to the break-point, a sparse one from there to the greatest magnitude.

    Attributes:
        levels: magnitudes of each grid other than its first.
        scale: of the dense grid, [rows].
        breaks: break-points, [rows]: ``levels * scale``.
        ratio: the sparse grid's step over the dense one's, [rows].
    """

    levels: int
    scale: torch.Tensor
    breaks: torch.Tensor
    ratio: torch.Tensor

    def rounded(self, rows: torch.Tensor) -> torch.Tensor:
        """What quantization leaves of rows [rows, elements]."""
        scale, breaks, ratio = (each[:, None] for each in (self.scale, self.breaks, self.ratio))
        size = rows.abs()
        dense = (size / scale).round() * scale
        sparse = breaks + ((size - breaks) / (ratio * scale)).round().clamp(max=self.levels) * (ratio * scale)
        return torch.where(size <= breaks, dense, sparse) * rows.sign()


def fit_piecewise(rows: torch.Tensor, bits: int) -> Piecewise:
    """The break-points with the least square error (Fang et al. 2020, arXiv:2002.00104, equations 3 to 5).

    Magnitudes up to the break-point p have ``2^(bits-1) - 1`` steps from 0 to p, those above as many from p to the
    greatest. Both grids have signs, so there are ``2^(bits+1) - 3`` numbers.

    Args:
        rows: [rows, elements].
        bits: of each grid.
    """
    levels = 2 ** (bits - 1) - 1
    greatest = rows.abs().amax(1)
    greatest = torch.where(greatest > 0, greatest, torch.ones_like(greatest))
    best = torch.full_like(greatest, torch.inf)
    part = torch.full_like(greatest, 0.5)
    for each in torch.linspace(0.05, 0.95, _BREAKS).tolist():
        error = (_piecewise(greatest, torch.full_like(greatest, each), levels).rounded(rows) - rows).square().sum(1)
        better = error < best
        best, part = torch.where(better, error, best), torch.where(better, each, part)
    return _piecewise(greatest, part, levels)


def _piecewise(greatest: torch.Tensor, part: torch.Tensor, levels: int) -> Piecewise:
    scale = (greatest * part / levels).clamp(min=torch.finfo(torch.float32).tiny)
    return Piecewise(levels, scale, levels * scale, (1 - part) / part)


def nearest_entries(rows: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Indices (int64, shape of `rows`) of the entries of an ascending `table` next to each element."""
    return torch.bucketize(rows.contiguous(), (table[1:] + table[:-1]) / 2)


def fit_table(rows: Sequence[torch.Tensor], entries: int) -> torch.Tensor:
    """The table with the least square error for all `rows` together: k-means in one dimension (Lloyd 1982).

    Begins at quantiles. Where there are zeros, pruned weights say, one entry is exactly zero.

    Args:
        rows: tensors of numbers.
        entries: size of the table.

    Returns:
        Ascending, float32 [entries].
    """
    data = torch.cat([each.reshape(-1) for each in rows]).double()
    values, order = data.sort().values, torch.linspace(0, 1, entries, dtype=torch.float64)
    table = values[(order * (len(values) - 1)).round().long()]
    # Quantiles alone leave the tails empty; halfway to even spacing they do not.
    table = (table + values[0] + order * (values[-1] - values[0])) / 2
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    zeros = bool((values == 0).any())
    for _ in range(_ROUNDS):
        _pin(table, zeros)
        edges = torch.searchsorted(values, (table[1:] + table[:-1]) / 2)
        starts = torch.cat([edges.new_zeros(1), edges])
        stops = torch.cat([edges, edges.new_tensor([len(values)])])
        counts = stops - starts
        means = (sums[stops] - sums[starts]) / counts.clamp(min=1)
        moved = _pin(torch.where(counts > 0, means, table), zeros)
        if torch.equal(moved, table):
            break
        table = moved
    return table.sort().values.float()


def _pin(table: torch.Tensor, zeros: bool) -> torch.Tensor:
    if zeros:
        table[table.abs().argmin()] = 0
    return table


def powers_of_two(bits: int) -> torch.Tensor:
    """0 and plus or minus 2^-k, the largest 1: an ascending table of 2^bits - 1 entries (products are shifts)."""
    sizes = 2.0 ** -torch.arange(2 ** (bits - 1) - 1, dtype=torch.float64)
    return torch.cat([-sizes, sizes.new_zeros(1), sizes.flip(0)]).float()
