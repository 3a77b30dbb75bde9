"""Selection: which components to remove under a ratio."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.errors import OptionError


def eligible(coupling: ChannelCoupling, ignore: Sequence[str], ratio: float) -> tuple[list[Group], list[str]]:
    """The groups that may be pruned, and notes on those that may not.

    A group is left out when a pattern of `ignore` matches a constant it cuts through (or the module it belongs to),
    when it has a single component, or when it is another factor of a dimension that is pruned already (heads or head
    dimension, not both).

    Raises:
        OptionError: a pattern that matches nothing.
    """
    groups = [group for group in coupling.groups if len(group) > 1]
    protected, notes = _protected(coupling, groups, ignore)
    free = [group for group in groups if group.index not in protected]
    return _one_factor_each(free, ratio), notes


def _protected(coupling: ChannelCoupling, groups: Sequence[Group], ignore: Sequence[str]) -> tuple[set[int], list[str]]:
    names = {group.index: [value.name for value in coupling.constants_of(group)] for group in groups}
    every = {value.name for value in coupling.graph.constants}
    protected: set[int] = set()
    notes = []
    for pattern in ignore:
        if not any(_matches(name, pattern) for name in every):
            raise OptionError(
                f"ignore pattern '{pattern}' matches no parameter", where="ignore",
                hint="'graphopt inspect MODEL' lists the names",
            )  # fmt: skip
        hit = [index for index, own in names.items() if any(_matches(name, pattern) for name in own)]
        protected.update(hit)
        notes.append(f"'{pattern}' protects {len(hit)} groups")
    return protected, notes


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition(".")[0], pattern)


def _one_factor_each(groups: Sequence[Group], ratio: float) -> list[Group]:
    """Of groups that factor one dimension takes the one that comes closest to the ratio, the outermost if equal."""

    def rank(group: Group) -> tuple[float, int]:
        return ratio - int(ratio * len(group)) / len(group), -max(factor.stride for factor in group.factors)

    taken: dict[int, int] = {}
    chosen = []
    for group in sorted(groups, key=rank):
        strides = {factor.extent: factor.stride for factor in group.factors}
        if all(taken.get(extent, stride) == stride for extent, stride in strides.items()):
            taken.update(strides)
            chosen.append(group)
    return sorted(chosen, key=lambda group: group.index)


def select_uniform(groups: Sequence[Group], scores: np.ndarray, ratio: float, round_to: int) -> np.ndarray:
    """The `ratio` lowest-scoring components of every group; at least one of each stays."""
    removed = [
        group.components[np.argsort(scores[group.components], kind="stable")[: _count(len(group), ratio, round_to)]]
        for group in groups
    ]
    return np.concatenate(removed) if removed else np.zeros(0, dtype=np.int64)


def select_global(
    groups: Sequence[Group], scores: np.ndarray, ratio: float, round_to: int, max_ratio: float
) -> np.ndarray:
    """The `ratio` lowest-scoring components of all groups together; no group loses more than `max_ratio` of its own."""
    if not groups:
        return np.zeros(0, dtype=np.int64)
    members = np.concatenate([group.components for group in groups])
    lowest = np.zeros(len(scores), dtype=bool)
    lowest[members[np.argsort(scores[members], kind="stable")[: int(ratio * len(members) + 1e-9)]]] = True
    removed = []
    for group in groups:
        count = min(int(lowest[group.components].sum()), _count(len(group), max_ratio, 1))
        count = len(group) - _rounded(len(group) - count, len(group), round_to)
        removed.append(group.components[np.argsort(scores[group.components], kind="stable")[:count]])
    return np.concatenate(removed)


def _count(size: int, ratio: float, round_to: int) -> int:
    """Components to remove of `size`, so that a multiple of `round_to` stays (all, where fewer would remain)."""
    return size - _rounded(max(size - int(ratio * size + 1e-9), 1), size, round_to)


def _rounded(keep: int, size: int, round_to: int) -> int:
    return min(-(-keep // round_to) * round_to, size)
