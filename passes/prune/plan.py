"""How many components each group loses: one number from 0 to 1 decides for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from graphopt.analysis.coupling import ChannelCoupling, Group

Scope: TypeAlias = Literal["uniform", "global", "isomorphic"]


@dataclass(frozen=True)
class Limits:
    """What every group keeps.

    Attributes:
        round_to: keep a multiple of this many components (or all).
        min_channels: keep at least this many.
        max_ratio: lose at most this part.
    """

    round_to: int = 1
    min_channels: int = 1
    max_ratio: float = 1.0

    def remove(self, size: int, wanted: int) -> int:
        """The number to remove of `size` when `wanted` could go: never more, so that all limits hold."""
        most = int(self.max_ratio * size + 1e-9)
        keep = max(size - min(wanted, most), min(self.min_channels, size), 1)
        return size - min(-(-keep // self.round_to) * self.round_to, size)


class Plan:
    """A family of selections, from nothing (0) to all that the limits allow (1).

    Within a group the components go in the order of their scores; what differs is how many each group gives.

    Args:
        groups: the groups.
        scores: per component, comparable within a group.
        ranked: per component, comparable between the groups that are ranked together.
        scope: "uniform" takes the same part of every group; "global" ranks all groups together; "isomorphic" ranks
            groups together that are alike (Fang et al., Isomorphic Pruning, ECCV 2024).
        limits: what every group keeps.
        fixed: by position, groups whose ratio is given.
        classes: for each group the number of its class; needed for the isomorphic scope.
    """

    def __init__(
        self, groups: Sequence[Group], scores: np.ndarray, ranked: np.ndarray, scope: Scope, limits: Limits,
        fixed: Mapping[int, float] | None = None, classes: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.groups = groups
        self.limits = limits
        self._limits = [replace(limits, min_channels=max(limits.min_channels, group.minimum)) for group in groups]
        free = [replace(each, max_ratio=1.0) for each in self._limits]  # a ratio that is asked for may exceed it
        self.fixed = {
            k: free[k].remove(len(groups[k]), int(r * len(groups[k]) + 1e-9)) for k, r in (fixed or {}).items()
        }
        self._order = [group.components[np.argsort(scores[group.components], kind="stable")] for group in groups]
        self._ranked = ranked
        self._uniform = scope == "uniform"
        kind = classes if scope == "isomorphic" and classes is not None else [0] * len(groups)
        self._classes = [] if self._uniform else [self._ranking(c, kind) for c in sorted(set(kind))]

    def _ranking(self, wanted: int, kind: Sequence[int]) -> np.ndarray:
        """The groups (by position) to which the components of a class belong, the least important first."""
        mine = [k for k, each in enumerate(kind) if each == wanted and k not in self.fixed]
        owners = np.repeat(np.array(mine, dtype=np.int64), [len(self.groups[k]) for k in mine])
        components = [self.groups[k].components for k in mine]
        scores = self._ranked[np.concatenate(components)] if components else np.zeros(0)
        ranking: np.ndarray = owners[np.argsort(scores, kind="stable")]
        return ranking

    def counts(self, part: float) -> np.ndarray:
        """How many components each group loses when `part` (0 to 1) of all of them could go."""
        if self._uniform:
            wanted = [int(part * len(group) + 1e-9) for group in self.groups]
        else:
            total = np.zeros(len(self.groups), dtype=np.int64)
            for ranking in self._classes:
                total += np.bincount(ranking[: int(part * len(ranking) + 1e-9)], minlength=len(self.groups))
            wanted = total.tolist()
        return np.array([
            self.fixed[k] if k in self.fixed else self._limits[k].remove(len(group), count)
            for k, (group, count) in enumerate(zip(self.groups, wanted, strict=True))
        ], dtype=np.int64)  # fmt: skip

    def components(self, counts: np.ndarray) -> np.ndarray:
        """The components that go when each group loses `counts` of its least important ones."""
        parts = [order[:count] for order, count in zip(self._order, counts, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def step(self, group: int, count: int, direction: int) -> int | None:
        """The next number of components that `group` can lose, above (+1) or below (-1) `count`; ``None`` at an end."""
        size = len(self.groups[group])
        if group in self.fixed:
            return None
        end = self._limits[group].remove(size, size) if direction > 0 else 0
        for wanted in range(count + direction, end + direction, direction):
            if self._limits[group].remove(size, wanted) == wanted:
                return wanted
        return None

    def steps_between(self, low: np.ndarray, high: np.ndarray) -> list[tuple[int, int]]:
        """Single steps (group, new count) that lead from `low` to `high`, those of the least importance first."""
        steps = []
        for k, (start, stop) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
            count: int | None = start
            while count is not None and count < stop:
                after = self.step(k, count, 1)
                if after is None or after > stop:
                    break
                taken = self._order[k][count:after]
                steps.append((float(self._ranked[taken].mean()), after, k))
                count = after
        # Counts rise within a group even where normalisation of scores left ties or disorder.
        ordered = sorted(steps)
        done: dict[int, list[int]] = {}
        for _, after, k in sorted(steps, key=lambda s: s[1]):
            done.setdefault(k, []).append(after)
        return [(k, done[k].pop(0)) for _, _, k in ordered]


def classes_of(coupling: ChannelCoupling, groups: Sequence[Group]) -> list[int]:
    """A number for each group; equal for groups that cut the same operands of the same operators equally often."""
    numbers: dict[frozenset[tuple[tuple[str, int, int], int]], int] = {}
    found = []
    for group in groups:
        cuts: Counter[tuple[str, int, int]] = Counter()
        for factor in group.factors:
            for value, dim in coupling.extents.members[factor.extent]:
                if value.is_constant:
                    cuts.update((use.user.op, use.index, dim) for use in value.uses if hasattr(use.user, "op"))
        found.append(numbers.setdefault(frozenset(cuts.items()), len(numbers)))
    return found
