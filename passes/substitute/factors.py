"""Weights as products of smaller ones: singular values, Tucker's decomposition, rows and columns apart.

All in double precision, with the truncation error known beforehand: a kept energy of e means that the squared
difference of the weights is at most (1 - e) times their squared norm (Eckart and Young 1936; De Lathauwer et al. 2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from graphopt.passes.fuse.kernels import Window


@dataclass(frozen=True)
class Plan:
    """The size of one of the convolutions (or products) that a layer becomes.

    Attributes:
        shape: of its weight, [out, in, *kernel].
        own: the spatial dimensions along which the stage has the layer's strides, pads and dilations; along the others
            it has none.
    """

    shape: tuple[int, ...]
    own: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A plan with numbers.

    Attributes:
        weight: [out, in, *kernel].
        own: as in the plan.
        windows: of a convolution, where they are not to follow from `own`.
    """

    weight: torch.Tensor
    own: tuple[int, ...] = ()
    windows: tuple[Window, ...] = ()

    @property
    def plan(self) -> Plan:
        return Plan(tuple(self.weight.shape), self.own)


def rank_for(energies: torch.Tensor, energy: float) -> int:
    """The least number of leading singular values that hold `energy` of all."""
    if energies[-1] <= 0:
        return 1
    kept = energies / energies[-1]
    return min(int((kept < energy - 1e-12).sum()) + 1, len(energies))


class Spectrum:
    """A matrix, decomposed when first asked for."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    @cached_property
    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        u, s, v = torch.linalg.svd(self.matrix, full_matrices=False)
        return u, s, v

    @cached_property
    def energies(self) -> torch.Tensor:
        """Energy of the first 1, 2, ... singular values together."""
        return self._parts[1].square().cumsum(0)

    def left(self, rank: int) -> torch.Tensor:
        """The leading left singular vectors [rows, rank]."""
        return self._parts[0][:, :rank]

    def split(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The best approximation of a rank as a product of [rows, rank] and [rank, columns], evenly scaled."""
        u, s, v = self._parts
        root = s[:rank].sqrt()
        return u[:, :rank] * root, root[:, None] * v[:rank]


class Method(Protocol):
    """A way to take a weight apart."""

    def plans(self, energy: float) -> list[Plan]:
        """The sizes of the stages that keep an energy of the weight."""
        ...

    def stages(self, energy: float) -> list[Stage]:
        """The stages that keep an energy of the weight."""
        ...


class Matrix:
    """Two layers: all inputs to a few numbers, these to the outputs."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._shape = weight.shape
        self._spectrum = Spectrum(weight.flatten(1))

    def plans(self, energy: float) -> list[Plan]:
        rank, (outputs, inputs, *kernel) = rank_for(self._spectrum.energies, energy), self._shape
        return [Plan((rank, inputs, *kernel), tuple(range(len(kernel)))), Plan((outputs, rank, *[1] * len(kernel)))]

    def stages(self, energy: float) -> list[Stage]:
        first, second = self.plans(energy)
        a, b = self._spectrum.split(first.shape[0])
        return [Stage(b.reshape(first.shape), first.own), Stage(a.reshape(second.shape))]


class Tucker:
    """Three layers: fewer input channels, the kernel on them, all output channels (Kim et al. 2015)."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight
        self._outputs = Spectrum(weight.flatten(1))
        self._inputs = Spectrum(weight.transpose(0, 1).flatten(1))

    def plans(self, energy: float) -> list[Plan]:
        each = 1 - (1 - energy) / 2  # both channel dimensions may lose half of what may be lost
        fewer_out, fewer_in = (rank_for(s.energies, each) for s in (self._outputs, self._inputs))
        outputs, inputs, *kernel = self._weight.shape
        ones = [1] * len(kernel)
        core = Plan((fewer_out, fewer_in, *kernel), tuple(range(len(kernel))))
        return [Plan((fewer_in, inputs, *ones)), core, Plan((outputs, fewer_out, *ones))]

    def stages(self, energy: float) -> list[Stage]:
        first, core, last = self.plans(energy)
        u, v = self._outputs.left(core.shape[0]), self._inputs.left(core.shape[1])
        middle = torch.einsum("oi...,or,is->rs...", self._weight, u, v)
        return [Stage(v.t().reshape(first.shape)), Stage(middle, core.own), Stage(u.reshape(last.shape))]


class RowsAndColumns:
    """Two layers: a column of the kernel, then a row (Jaderberg et al. 2014). For kernels of two dimensions."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._shape = weight.shape
        outputs, inputs, height, width = weight.shape
        self._spectrum = Spectrum(weight.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width))

    def plans(self, energy: float) -> list[Plan]:
        rank, (outputs, inputs, height, width) = rank_for(self._spectrum.energies, energy), self._shape
        return [Plan((rank, inputs, height, 1), (0,)), Plan((outputs, rank, 1, width), (1,))]

    def stages(self, energy: float) -> list[Stage]:
        columns, rows = self.plans(energy)
        a, b = self._spectrum.split(columns.shape[0])
        behind = b.reshape(-1, rows.shape[0], rows.shape[3]).transpose(0, 1)
        return [Stage(a.t().reshape(columns.shape), columns.own), Stage(behind.reshape(rows.shape), rows.own)]
