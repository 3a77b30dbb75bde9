"""Structured channel pruning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.errors import OptionError, PassError
from graphopt.ir import Graph
from graphopt.ir.names import unique_names
from graphopt.passes.prune.importance import find_criterion, normalised, score_components
from graphopt.passes.prune.removal import Removal
from graphopt.passes.prune.selection import eligible, select_global, select_uniform
from graphopt.pipeline import Changes, Context, Contract, Pass, register


@register("prune-channels")
@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the least important channels, with everything that is coupled to them, whatever the architecture.

    Works on indices and their coupling (see `graphopt.analysis.coupling`), not on layer types: channels, attention
    heads, FFN and embedding widths, LSTM units and convolution groups are all components that operators tie together.
    Inputs and outputs of the graph keep their shapes. Idea: DepGraph (Fang et al., CVPR 2023).

    Attributes:
        ratio: part of the components to remove, from 0 up to (not including) 1.
        criterion: importance of a component: l1, l2, random.
        scope: "uniform" removes the ratio of every group, "global" ranks all groups together.
        ignore: patterns of parameter names or module paths to leave alone ("fc", "layer1.*").
        round_to: keep a multiple of this many components per group (8, 16: hardware).
        max_ratio: most that a single group may lose under a global scope.
    """

    contract: ClassVar[Contract] = Contract.MASKED

    ratio: float = 0.5
    criterion: str = "l1"
    scope: str = "uniform"
    ignore: tuple[str, ...] = ()
    round_to: int = 1
    max_ratio: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise OptionError(f"ratio is {self.ratio:g}", where="prune-channels{ratio}", hint="give 0 <= ratio < 1")
        if not 0 < self.max_ratio < 1:
            raise OptionError(
                f"max-ratio is {self.max_ratio:g}", where="prune-channels{max-ratio}", hint="give 0 < max-ratio < 1"
            )
        if self.round_to < 1:
            raise OptionError(f"round-to is {self.round_to}", where="prune-channels{round-to}", hint="give 1 or more")
        if self.scope not in ("uniform", "global"):
            raise OptionError(f"scope is '{self.scope}'", where="prune-channels{scope}", hint="uniform or global")
        find_criterion(self.criterion)

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        coupling = context.get(ChannelCoupling)
        groups, notes = eligible(coupling, self.ignore, self.ratio)
        if not groups:
            raise PassError("nothing can be pruned", where=self.name, hint=explain_frozen(coupling))
        scores = score_components(coupling, find_criterion(self.criterion), context, groups)
        if self.scope == "uniform":
            components = select_uniform(groups, scores, self.ratio, self.round_to)
        else:
            ranked = normalised(scores, groups)
            components = select_global(groups, ranked, self.ratio, self.round_to, self.max_ratio)
        if not len(components):
            if self.ratio == 0:
                return Changes(False)
            raise PassError(
                f"ratio {self.ratio:g} with round-to {self.round_to} removes nothing: the groups are too small",
                where=self.name, hint="raise the ratio or lower round-to",
            )  # fmt: skip
        removal = Removal(graph, coupling, components)
        removal.apply()
        total = sum(len(group) for group in groups)
        notes.append(f"{len(components)} of {total} components in {len(groups)} groups removed")
        frozen = coupling.frozen_by()
        if frozen:
            notes.append("kept whole: " + _reasons(frozen))
        return Changes(
            True,
            counts={"components": len(components)},
            notes=tuple(notes),
            kept=removal.kept_constants,
            details={"restricted": removal.restricted, "groups": _group_table(coupling, groups, components)},
        )


def explain_frozen(coupling: ChannelCoupling) -> str:
    """Why nothing is left to prune, in a sentence."""
    frozen = coupling.frozen_by()
    if frozen:
        return f"everything is frozen by: {_reasons(frozen)}"
    if coupling.groups:
        return "every group that could be pruned is on the ignore list or has a single component"
    return "the graph has no weights with channels between its inputs and its outputs"


def _reasons(frozen: Counter[str]) -> str:
    return "; ".join(f"{reason} ({count} components)" for reason, count in frozen.most_common(4))


def _group_table(coupling: ChannelCoupling, groups: list[Group], components: np.ndarray) -> list[dict[str, object]]:
    gone = np.zeros(coupling.atoms.components, dtype=bool)
    gone[components] = True
    return [
        {"group": coupling.name_of(group), "components": len(group), "removed": int(gone[group.components].sum())}
        for group in groups
    ]
