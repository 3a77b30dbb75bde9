"""Large kernels as stacks of small ones, by alternating least squares.

A kernel of extent K is sought as several of extent 3 behind one another; what they read together is the same. Each is
the solution of a linear least-squares problem while the others are held, in turns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce

import torch
import torch.nn.functional as F

_SMALL = 3
_ROUNDS = 120
_STARTS = 6
# Rounds that gain less, relative to the error, are not worth it.
_PROGRESS = 1e-3
_RIDGE = 1e-12
_ZERO = torch.zeros((), dtype=torch.float64)


def stacked(weight: torch.Tensor, group: int, seed: int = 0) -> tuple[list[torch.Tensor], float]:
    """Kernels of extent 3 whose composition is near `weight`, and by how much they miss it, relative to its norm.

    Args:
        weight: [out, in / group, K, K], float64, K odd and at least 5.
        group: 1, or as many as there are channels, in and out.
        seed: of the start.
    """
    generator = torch.Generator().manual_seed(seed)
    stages = _by_channel(weight, generator) if group > 1 else _by_pairs(weight, generator)
    made = stages[0]
    for stage in stages[1:]:
        made = compose(made, stage, group)
    return stages, float((made - weight).norm() / weight.norm().clamp_min(torch.finfo(weight.dtype).tiny))


def compose(first: torch.Tensor, second: torch.Tensor, group: int) -> torch.Tensor:
    """The kernel of a convolution by `first` and then one by `second`."""
    if group > 1:
        small, large = sorted((first, second), key=lambda kernel: kernel.shape[-1])
        placed = _shifts(large, small.shape[-1])
        return sum((each * small[..., i : i + 1, j : j + 1] for i, j, each in placed), start=_ZERO)
    reach = second.shape[-1] - 1
    return F.conv2d(first.transpose(0, 1), second.flip(2, 3), padding=reach).transpose(0, 1)


def _shifts(kernel: torch.Tensor, extent: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """A kernel at every place within one that is larger by ``extent - 1``."""
    reach = extent - 1
    for i in range(extent):
        for j in range(extent):
            yield i, j, F.pad(kernel, (j, reach - j, i, reach - i))


def largest_system(weight: torch.Tensor, group: int) -> int:
    """The number of unknowns that `stacked` solves for at once."""
    return int(weight.shape[0] * max(_SMALL, weight.shape[-1] - 2) ** 2) if group == 1 else _SMALL * _SMALL


def _by_channel(weight: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """Stages for every channel by itself, all channels and several starts of each at once: [C, 1, 3, 3] each."""
    channels, extent = weight.shape[0], weight.shape[-1]
    wanted = weight.repeat_interleave(_STARTS, 0)
    count = (extent - 1) // 2
    stages = [0.5 * torch.randn(len(wanted), 1, 3, 3, generator=generator, dtype=weight.dtype) for _ in range(count)]
    for stage in stages:
        stage[..., 1, 1] += 1
    previous = math.inf
    for _ in range(_ROUNDS):
        for number in range(count):
            # Convolutions of one channel commute: every stage may be the last.
            others = stages[:number] + stages[number + 1 :]
            rest = reduce(lambda a, b: compose(a, b, len(wanted)), others)
            stages[number] = _best_for_channels(wanted, rest)
        made = reduce(lambda a, b: compose(a, b, len(wanted)), stages)
        errors = (made - wanted).flatten(1).norm(dim=1).reshape(channels, _STARTS)
        error = float(errors.min(1).values.norm())
        if error > previous * (1 - _PROGRESS):
            break
        previous = error
    best = errors.argmin(1) + torch.arange(channels) * _STARTS
    return _evened([stage[best] for stage in stages])


def _best_for_channels(weight: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """The kernels [C, 1, 3, 3] with which `rest` [C, 1, K - 2, K - 2] comes nearest to `weight` [C, 1, K, K]."""
    system = torch.stack([each.flatten(1) for _, _, each in _shifts(rest, _SMALL)], 2)
    return _least_squares(system, weight.flatten(1)[..., None]).reshape(-1, 1, _SMALL, _SMALL)


def _evened(stages: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same composition with stages of the same norm, channel by channel."""
    norms = torch.stack([stage.flatten(1).norm(dim=1) for stage in stages])
    mean = norms.clamp_min(_RIDGE).log().mean(0).exp()
    factors = (mean / norms.clamp_min(_RIDGE))[..., None, None, None]
    return [stage * factor for stage, factor in zip(stages, factors, strict=True)]


def _by_pairs(weight: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """Stages for all channels together: a small kernel is split off as long as what is left is large."""
    left, stages = weight, list[torch.Tensor]()
    while left.shape[-1] > _SMALL:
        first, left = _solve(left, generator)
        stages.append(first)
    return [*stages, left]


def _solve(weight: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernels of extents 3 and K - 2, with as many channels in between as come out, composed nearest to `weight`."""
    outputs, extent = weight.shape[0], weight.shape[-1] - 2
    second = 0.1 * torch.randn(outputs, outputs, extent, extent, generator=generator, dtype=weight.dtype)
    second[..., extent // 2, extent // 2] += torch.eye(outputs, dtype=weight.dtype)
    previous = math.inf
    first = second
    for _ in range(_ROUNDS):
        first = _best_first(weight, second)
        second = _best_second(weight, first)
        error = float((compose(first, second, 1) - weight).norm())
        if error > previous * (1 - _PROGRESS):
            break
        previous = error
    sizes = first.norm(), second.norm()
    scale = (sizes[0] / sizes[1]).sqrt() if all(size > 0 for size in sizes) else torch.ones_like(sizes[0])
    return first / scale, second * scale


def _best_first(weight: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The first kernel [mid, in, 3, 3] with which `second` [out, mid, k, k] comes nearest to `weight`."""
    mid, unknowns = second.shape[1], second.shape[1] * _SMALL * _SMALL
    unit = torch.eye(unknowns, dtype=weight.dtype).reshape(unknowns, mid, _SMALL, _SMALL).transpose(0, 1)
    system = compose(unit, second, 1).permute(0, 2, 3, 1).reshape(-1, unknowns)
    wanted = weight.permute(0, 2, 3, 1).reshape(-1, weight.shape[1])
    return _least_squares(system, wanted).reshape(mid, _SMALL, _SMALL, -1).permute(0, 3, 1, 2)


def _best_second(weight: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The second kernel [out, mid, k, k] with which `first` [mid, in, 3, 3] comes nearest to `weight`."""
    mid, extent = first.shape[0], weight.shape[-1] - 2
    unknowns = mid * extent * extent
    unit = torch.eye(unknowns, dtype=weight.dtype).reshape(unknowns, mid, extent, extent)
    system = compose(first, unit, 1).flatten(1).t()
    return _least_squares(system, weight.flatten(1).t()).t().reshape(-1, mid, extent, extent)


def _least_squares(system: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of one system, or of a batch of them."""
    square = system.mT @ system
    diagonal = square.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(_RIDGE * diagonal.mean(-1, keepdim=True).clamp_min(_RIDGE))
    solution: torch.Tensor = torch.linalg.solve(square, system.mT @ wanted)
    return solution
