"""Iterative pruning: a little at a time, with training between."""

from __future__ import annotations

from dataclasses import replace

from graphopt.errors import OptionError
from graphopt.passes.prune.channels import PruneChannels
from graphopt.pipeline import Pass


def iterative(prune: PruneChannels, train: Pass, steps: int) -> list[Pass]:
    """Passes that reach the aim of `prune` in equal steps, each followed by `train`.

    Each step leaves the same part of what the step before left, ``left ** (1 / steps)``, since channels that were
    removed early need not be ranked again. A ratio rounds per step and group; a budget ends within its tolerance.

    Args:
        prune: what is to be reached in the end, as a ratio or as a budget.
        train: what runs after each step, a `Finetune` for one.
        steps: number of steps.

    Returns:
        Passes for `graphopt.optimize`, ``2 * steps`` of them.

    Raises:
        OptionError: fewer than one step.
    """
    if steps < 1:
        raise OptionError(f"steps is {steps}", where="iterative", hint="give 1 or more")
    if prune.budget is None:
        step = replace(prune, ratio=1 - (1 - prune.ratio) ** (1 / steps))
    else:
        figure, target = prune.budget
        step = replace(prune, **{figure: target ** (1 / steps)})
    return [each for _ in range(steps) for each in (step, train)]
