"""adaround: whether each weight is rounded up or down, learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.ir import Graph
from graphopt.passes.quantize.recovery.descent import descend, row_errors
from graphopt.passes.quantize.recovery.gptq import compensate
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.recovery.rounding import Grid, round_layers
from graphopt.pipeline import Changes, Context, Contract, Pass, register

# The rectified sigmoid of the paper, equation 23.
_ZETA, _GAMMA = 1.1, -0.1
#: Part of the steps before the regulariser sets in, and its exponent from there to the end.
_WARM, _BETA_FIRST, _BETA_LAST = 0.2, 20.0, 2.0
#: Damping of the moments for the other start, which is `gptq`'s.
_DAMP = 0.01


@register("adaround")
@dataclass(frozen=True)
class AdaRound(Pass):
    """Learn for each quantized weight whether to round up or down, so that layers' outputs stay closest.

    Minimises the squared error of each layer's outputs over the run's data plus a regulariser that drives every soft
    decision to 0 or 1 (Nagel et al. 2020, arXiv:2004.10568, equations 21 to 25). The error is computed from the second
    moments of the inputs, so memory and time do not grow with the samples.

    Up or down is less than a grid allows, and Adam is slow where inputs are correlated, so the decisions are finished
    by coordinate descent over all codes. So is what `gptq` gives, and each output takes the better: none is worse than
    with `gptq` at its default. Runs before `pack-weights`.

    Attributes:
        steps: of Adam, for each layer.
        lr: learning rate.
        regulariser: weight of the regulariser.
        batches: batches to read at most; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    steps: int = 500
    lr: float = 0.02
    regulariser: float = 0.3
    batches: int = 0

    def __post_init__(self) -> None:
        check_options(
            self,
            ("steps", self.steps >= 1, "1 or more"),
            ("lr", self.lr > 0, "more than 0"),
            ("regulariser", self.regulariser > 0, "more than 0"),
            ("batches", self.batches >= 0, "0 or more"),
        )

    def run(self, graph: Graph, context: Context) -> Changes:
        return round_layers(graph, context, self.batches, self._round, self.name)

    def _round(self, weight: torch.Tensor, grid: Grid, moments: torch.Tensor) -> torch.Tensor:
        starts = (self._learn(weight, grid, moments), compensate(weight, grid, moments, _DAMP))
        ends = torch.stack([descend(weight, start, grid, moments) for start in starts])
        best = torch.stack([row_errors(end - weight, moments) for end in ends]).argmin(0)
        return torch.where((best == 0)[..., None], ends[0], ends[1])

    def _learn(self, weight: torch.Tensor, grid: Grid, moments: torch.Tensor) -> torch.Tensor:
        exact = weight / grid.step + grid.offset
        floor = exact.floor()
        part = (exact - floor).clamp(0.01, 0.99)
        with torch.enable_grad():
            soft = torch.log((part - _GAMMA) / (_ZETA - part)).float().requires_grad_()
            self._train(soft, weight, floor, grid, moments)
        codes = (floor + (_rectified(soft.detach()) >= 0.5)).clamp(grid.least, grid.greatest)
        return (codes - grid.offset) * grid.step

    def _train(
        self, soft: torch.Tensor, weight: torch.Tensor, floor: torch.Tensor, grid: Grid, moments: torch.Tensor
    ) -> None:
        target, low = weight.float(), floor.float()
        step, offset, second = grid.step.float(), grid.offset.float(), moments.float()
        nearest = (grid.nearest(weight) - weight).float()
        unit = ((nearest @ second) * nearest).sum().clamp(min=torch.finfo(torch.float32).tiny)
        optimizer = torch.optim.Adam([soft], self.lr)
        for number in range(self.steps):
            up = _rectified(soft)
            codes = (low + up).clamp(grid.least, grid.greatest)
            error = (codes - offset) * step - target
            loss = ((error @ second) * error).sum() / unit
            progress = (number / self.steps - _WARM) / (1 - _WARM)
            if progress > 0:
                beta = _BETA_FIRST + (_BETA_LAST - _BETA_FIRST) * progress
                loss = loss + self.regulariser * (1 - (2 * up - 1).abs() ** beta).mean() * soft.numel() ** 0.5
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _rectified(soft: torch.Tensor) -> torch.Tensor:
    return (torch.sigmoid(soft) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)
