"""Masks: which elements of a weight stay, given their scores."""

from __future__ import annotations

import torch


def keep_highest(scores: torch.Tensor, removed: int) -> torch.Tensor:
    """All but the `removed` lowest scores; of equal ones the first go."""
    keep = torch.ones(scores.numel(), dtype=torch.bool)
    keep[scores.flatten().argsort(stable=True)[:removed]] = False
    return keep.reshape(scores.shape)


def keep_highest_of_each(scores: torch.Tensor, dim: int, removed: int) -> torch.Tensor:
    """All but the `removed` lowest scores of each line along `dim`."""
    lines = scores.movedim(dim, -1)
    keep = torch.ones_like(lines, dtype=torch.bool)
    keep.scatter_(-1, lines.argsort(dim=-1, stable=True)[..., :removed], False)
    return keep.movedim(-1, dim)


def keep_pattern(scores: torch.Tensor, dim: int, n: int, m: int) -> torch.Tensor | None:
    """The n highest of every m neighbours along `dim`; ``None`` when its extent is no multiple of m."""
    if scores.shape[dim] % m:
        return None
    lines = scores.movedim(dim, -1)
    groups = lines.reshape(-1, m)
    keep = torch.zeros_like(groups, dtype=torch.bool)
    keep.scatter_(1, groups.topk(n, dim=1).indices, True)
    return keep.reshape(lines.shape).movedim(-1, dim)
