"""Rounding by coordinate descent: each weight goes to the best code given all others, until none wants to move."""

from __future__ import annotations

import torch

from graphopt.passes.quantize.recovery.rounding import Grid

#: Sweeps over the columns at most; three to six are the rule.
_SWEEPS = 12
#: A sweep that takes less than this part off the error is the last.
_SETTLED = 1e-3
#: Columns that are moved before the rest hears of it, which makes a matrix product of the work.
_BLOCK = 128


def descend(weight: torch.Tensor, start: torch.Tensor, grid: Grid, moments: torch.Tensor) -> torch.Tensor:
    """Moves codes one column at a time to where the error of the outputs is least; it never grows.

    The error ``(q - w) H (q - w)^T`` of a row is a parabola in each of its elements, least at ``q_j - ((q - w) H)_j /
    H_jj``; the code next to that is the best one. Rows do not depend on each other and are done side by side.

    Args:
        weight: [groups, out, in], float64.
        start: numbers of the grid, in the same shape; stays as it is.
        grid: the numbers to choose from.
        moments: of the inputs, [groups, in, in], float64.
    """
    codes = start.clone()
    diagonal = moments.diagonal(dim1=1, dim2=2)
    curvature = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))  # a dead input pulls at nothing
    error = row_errors(codes - weight, moments).sum()
    for _ in range(_SWEEPS):
        _sweep(codes, (codes - weight) @ moments, curvature, grid, moments)
        left = row_errors(codes - weight, moments).sum()
        if left >= (1 - _SETTLED) * error:
            break
        error = left
    return codes


def row_errors(error: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Mean square error of each output, [groups, out], when the weight is off by `error` [groups, out, in]."""
    return ((error @ moments) * error).sum(-1)


def _sweep(codes: torch.Tensor, pull: torch.Tensor, curvature: torch.Tensor, grid: Grid, moments: torch.Tensor) -> None:
    """Moves each column once, in place; `pull`, half the gradient, is kept up to date."""
    for first in range(0, codes.shape[2], _BLOCK):
        block = slice(first, min(first + _BLOCK, codes.shape[2]))
        before = codes[..., block].clone()
        for column in range(block.start, block.stop):
            one = slice(column, column + 1)
            best = grid.nearest(codes[..., one] - pull[..., one] / curvature[:, None, one], one)
            moved = best - codes[..., one]
            codes[..., one] = best
            pull[..., block] += moved * moments[:, one, block]
        pull[..., block.stop :] += (codes[..., block] - before) @ moments[:, block, block.stop :]
