"""Budgets: the selection whose cost is a given part of the original's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import torch

from graphopt.analysis.cost import assumed_sizes
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.backends import to_onnx
from graphopt.errors import PassError
from graphopt.ir import Graph
from graphopt.passes.prune.plan import Plan
from graphopt.passes.prune.removal import Removal
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.timing import medians

Figure: TypeAlias = Literal["params", "macs", "bytes", "latency"]

#: A solution this far from its target (relative to the target) is as good as exact.
TOLERANCE = 0.02
#: Of so few groups one may have steps that are large beside the tolerance: combinations of steps are tried then.
_FEW = 16


@dataclass(frozen=True)
class Solution:
    """A selection for a budget.

    Attributes:
        counts: components that each group loses.
        achieved: the figure, as a part of the original's.
        why: the reason when it is further than the tolerance from the target; else empty.
    """

    counts: np.ndarray
    achieved: float
    why: str = ""


def unweighed(graph: Graph, sizes: Mapping[str, int]) -> str:
    """A note where multiply-accumulates were counted at open dimensions of 1, of which they are another part."""
    assumed = assumed_sizes(graph.inputs, sizes)
    return f"multiply-accumulates were counted at {assumed}: give data of the sizes in use" if assumed else ""


def solve(plan: Plan, figure: Callable[[np.ndarray], float], target: float, what: str) -> Solution:
    """The selection of `plan` whose figure comes closest to `target`.

    Bisection on the plan's one number gives neighbours above and below the target; between them groups go step by step,
    the least important components first; then single steps of any group mend what is left of the difference.

    Args:
        plan: the family of selections.
        figure: cost of a selection, as a part of the original's; falls as more goes.
        target: from 0 to 1.
        what: name of the figure, for messages.

    Raises:
        PassError: even with every group at its limit more than the target is left.
    """
    low, high = plan.counts(0.0), plan.counts(1.0)
    least = figure(high)
    if least > target * (1 + TOLERANCE):
        raise PassError(
            f"{what}={target:g} cannot be reached: with every group at its limit {least:.3f} of it is left",
            where="prune-channels",
            hint="raise max-ratio, lower min-channels or round-to, shorten ignore; the report's 'kept whole' says what "
            "is frozen",
        )
    low, high = _neighbours(plan, figure, target, low, high)
    best = _between(plan, figure, target, low, high)
    best = _mend(plan, figure, target, best)
    if abs(figure(best) - target) > TOLERANCE * target and len(plan.groups) <= _FEW:
        best = _exchange(plan, figure, target, best)
    achieved = figure(best)
    why = ""
    if abs(achieved - target) > TOLERANCE * target:
        why = f"{what} {achieved:.3f} instead of {target:g}: the next step of any group is further away"
    return Solution(best, achieved, why)


def _neighbours(
    plan: Plan, figure: Callable[[np.ndarray], float], target: float, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Selections just above and just at or below the target."""
    a, b = 0.0, 1.0
    finest = 0.5 / max(sum(len(group) for group in plan.groups), 1)
    while b - a > finest and not np.array_equal(low, high):
        middle = (a + b) / 2
        counts = plan.counts(middle)
        if figure(counts) > target:
            a, low = middle, counts
        else:
            b, high = middle, counts
    return low, high


def _between(
    plan: Plan, figure: Callable[[np.ndarray], float], target: float, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    steps = plan.steps_between(low, high)

    def after(number: int) -> np.ndarray:
        counts = low.copy()
        for group, count in steps[:number]:
            counts[group] = count
        return counts

    a, b = 0, len(steps)
    while b - a > 1:
        middle = (a + b) // 2
        if figure(after(middle)) > target:
            a = middle
        else:
            b = middle
    return min((after(a), after(b)), key=lambda counts: abs(figure(counts) - target))


def _exchange(plan: Plan, figure: Callable[[np.ndarray], float], target: float, counts: np.ndarray) -> np.ndarray:
    """One step of a group that leads away, made up for by steps of the others, where that comes closer."""
    found = [counts]
    for group in range(len(plan.groups)):
        for direction in (1, -1):
            step = plan.step(group, int(counts[group]), direction)
            if step is not None:
                moved = counts.copy()
                moved[group] = step
                found.append(_mend(plan, figure, target, moved, fixed=group))
    return min(found, key=lambda each: abs(figure(each) - target))


def _mend(
    plan: Plan, figure: Callable[[np.ndarray], float], target: float, counts: np.ndarray, fixed: int = -1
) -> np.ndarray:
    """Takes or gives back single steps while that brings the figure closer, until it is close enough.

    The group number `fixed` is left as it is.
    """
    error = abs(figure(counts) - target)
    for _ in range(32):
        if error <= TOLERANCE * target / 4:
            break
        direction = 1 if figure(counts) > target else -1
        candidates = []
        for group in range(len(plan.groups)):
            step = None if group == fixed else plan.step(group, int(counts[group]), direction)
            if step is not None:
                moved = counts.copy()
                moved[group] = step
                candidates.append((abs(figure(moved) - target), group, moved))
        if not candidates:
            break
        closest, _, moved = min(candidates, key=lambda each: each[:2])
        if closest >= error:
            break
        counts, error = moved, closest
    return counts


class Latency:
    """Time of a run in ONNX Runtime on one thread, as a part of the original's; measured turn by turn.

    Args:
        graph: the original.
        inputs: what is run.
        repeats: runs of each side per measurement.
    """

    def __init__(self, graph: Graph, inputs: list[torch.Tensor], repeats: int = 15) -> None:
        self.graph = graph
        self.inputs = [tensor.numpy() for tensor in inputs]
        self.repeats = repeats
        self._original = OrtSession(to_onnx(graph))
        self._known: dict[bytes, float] = {}

    def of(self, components: np.ndarray) -> float:
        """The part of the original's time that is left without `components`."""
        if not len(components):
            return 1.0
        key = np.sort(components).tobytes()
        if key not in self._known:
            twin = self.graph.clone()
            Removal(twin, ChannelCoupling(twin), components).apply()
            session = OrtSession(to_onnx(twin))
            times = medians(
                {"before": lambda: self._original.run(self.inputs), "after": lambda: session.run(self.inputs)},
                repeats=self.repeats,
            )
            self._known[key] = times["after"] / times["before"]
        return self._known[key]


def solve_latency(plan: Plan, latency: Latency, target: float, rounds: int = 10) -> Solution:
    """The selection whose measured latency comes closest to `target`; measurements are few and noisy.

    Raises:
        PassError: even with every group at its limit more than the target is left.
    """
    low, high = 0.0, 1.0
    counts = plan.counts(high)
    least = latency.of(plan.components(counts))
    if least > target * (1 + TOLERANCE):
        raise PassError(
            f"latency={target:g} cannot be reached: with every group at its limit {least:.3f} of it is left",
            where="prune-channels", hint=f"{_rounding(plan)}raise max-ratio, lower min-channels, shorten ignore",
        )  # fmt: skip
    tried = [(least, counts)]
    for _ in range(rounds):
        middle = (low + high) / 2
        counts = plan.counts(middle)
        achieved = latency.of(plan.components(counts))
        tried.append((achieved, counts))
        if abs(achieved - target) <= TOLERANCE * target / 2:
            break
        low, high = (middle, high) if achieved > target else (low, middle)
    closest, counts = min(tried, key=lambda each: abs(each[0] - target))
    why = _why_not(plan, tried, closest, target) if abs(closest - target) > TOLERANCE * target else ""
    return Solution(counts, closest, why)


def _why_not(plan: Plan, tried: Sequence[tuple[float, np.ndarray]], closest: float, target: float) -> str:
    """Why no selection that was tried comes close: the floor, the steps of the kernels, or the noise of the machine."""
    start = f"latency {closest:.3f} instead of {target:g}: "
    sizes = [(part, len(plan.components(counts))) for part, counts in tried]
    slower, faster = ([each for each in sizes if (each[0] > target) is side] for side in (True, False))
    if not faster:
        return start + "that is what is left with every group at its limit"
    if not slower:
        return start + "even the smallest selection measured is faster"
    above = min(slower, key=lambda each: (each[0], -each[1]))
    below = max(faster, key=lambda each: (each[0], -each[1]))
    nearest = " and ".join(f"{part:.3f} without {size} components" for part, size in (above, below))
    cause = "kernels work on blocks of channels, so time falls in steps"
    by_size = sorted(sizes, key=lambda each: each[1])
    if any(after[0] > before[0] + TOLERANCE * target for before, after in pairwise(by_size)):
        cause = "fewer channels are not always faster: kernels work on blocks of them, or the machine is noisy"
    hint = _rounding(plan).rstrip(", ")
    return f"{start}the nearest of {len(tried)} measured are {nearest}; {cause}" + (f"; {hint}" if hint else "")


def _rounding(plan: Plan) -> str:
    """Advice where widths are not rounded: kernels work on blocks of channels, and may be slower on fewer of them."""
    return "give round-to=8 (16 with AVX-512), " if plan.limits.round_to % 8 else ""
