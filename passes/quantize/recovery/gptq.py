"""gptq: weights rounded column by column, each column making up for the errors of those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.ir import Graph
from graphopt.passes.curvature import inverse_factor
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.recovery.rounding import Grid, round_layers
from graphopt.pipeline import Changes, Context, Contract, Pass, register

#: Columns whose errors are spread among themselves before the rest hears of them.
_BLOCK = 128


@register("gptq")
@dataclass(frozen=True)
class Gptq(Pass):
    """Round quantized weights so that the outputs of layers, on the run's data, stay closest (GPTQ).

    Columns are rounded in the order of how much they are used; what a column loses is made up for by those that follow,
    along the Cholesky factor of the inverse of the inputs' second moments (Frantar et al. 2022, arXiv:2210.17323,
    algorithm 1). Works on every Q/DQ pair of weights, whatever its type and granularity; runs before `pack-weights`.

    Attributes:
        damp: added to the diagonal of the moments, as a part of its mean.
        batches: batches to read at most; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    damp: float = 0.01
    batches: int = 0

    def __post_init__(self) -> None:
        check_options(
            self,
            ("damp", 0 < self.damp <= 1, "more than 0 and at most 1"),
            ("batches", self.batches >= 0, "0 or more"),
        )

    def run(self, graph: Graph, context: Context) -> Changes:
        return round_layers(graph, context, self.batches, self._round, self.name)

    def _round(self, weight: torch.Tensor, grid: Grid, moments: torch.Tensor) -> torch.Tensor:
        return compensate(weight, grid, moments, self.damp)


def compensate(weight: torch.Tensor, grid: Grid, moments: torch.Tensor, damp: float) -> torch.Tensor:
    """Rounds column by column, having later columns make up for what earlier ones lose: [groups, out, in].

    Args:
        weight: [groups, out, in], float64.
        grid: the numbers to round to.
        moments: of the inputs, [groups, in, in], float64.
        damp: added to the diagonal of the moments, as a part of its mean.
    """
    return torch.stack([_round_group(weight[g], _one(grid, g), moments[g], damp) for g in range(len(weight))])


def _round_group(weight: torch.Tensor, grid: Grid, moments: torch.Tensor, damp: float) -> torch.Tensor:
    diagonal = moments.diagonal()
    order = diagonal.argsort(descending=True, stable=True)
    factor = inverse_factor(moments[order][:, order], damp)
    left = weight[:, order].clone()
    sorted_grid = Grid(grid.step[:, order], grid.offset[:, order], grid.least, grid.greatest)
    rounded = torch.empty_like(left)
    for start in range(0, left.shape[1], _BLOCK):
        end = min(start + _BLOCK, left.shape[1])
        errors = torch.empty_like(left[:, start:end])
        for column in range(start, end):
            one = slice(column, column + 1)
            rounded[:, one] = sorted_grid.nearest(left[:, one], one)
            error = (left[:, column] - rounded[:, column]) / factor[column, column]
            left[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded[:, order.argsort()]


def _one(grid: Grid, group: int) -> Grid:
    return Grid(grid.step[group], grid.offset[group], grid.least, grid.greatest)
