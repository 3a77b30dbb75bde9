"""Structured channel pruning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.errors import OptionError, PassError
from graphopt.ir import Graph
from graphopt.ir.names import unique_names
from graphopt.passes.prune.budget import Figure, Latency, Solution, solve, solve_latency, unweighed
from graphopt.passes.prune.counts import PredictedCost
from graphopt.passes.prune.criteria import Evidence
from graphopt.passes.prune.importance import Normalisation, Reduction, find_criterion, normalised, score_components
from graphopt.passes.prune.kinds import Kind, kinds_of
from graphopt.passes.prune.plan import Limits, Plan, Scope, classes_of
from graphopt.passes.prune.removal import Removal
from graphopt.passes.prune.selection import eligible, overrides
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.runtime.samples import runnable_inputs

_FIGURES: tuple[Figure, ...] = ("params", "macs", "bytes", "latency")


@register("prune-channels")
@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the least important channels, with everything that is coupled to them, whatever the architecture.

    Works on indices and their coupling (see `graphopt.analysis.coupling`), not on layer types: channels, attention
    heads, FFN and embedding widths, LSTM units and convolution groups are all components that operators tie together.
    Inputs and outputs of the graph keep their shapes. Idea: DepGraph (Fang et al., CVPR 2023).

    Attributes:
        ratio: part of the components to remove, from 0 up to (not including) 1; where no budget is given.
        criterion: importance of a slice: l1, l2, linf, random, lamp, fpgm, bn-scale; with data activation, apoz, wanda;
            with labels (or a loss) taylor, obd-c, hessian.
        scope: "uniform" removes the ratio of every group, "global" ranks all groups together, "isomorphic" ranks groups
            together that are alike.
        ignore: patterns of parameter names or module paths to leave alone ("fc", "layer1.*").
        round_to: keep a multiple of this many components per group (8, 16: hardware).
        max_ratio: most that a single group may lose, except under a uniform ratio.
        min_channels: fewest components that a group keeps.
        params: budget: part of the parameters that is to be left (0.5: half of them).
        macs: budget: part of the multiply-accumulates that is to be left.
        bytes: budget: part of the weights' bytes that is to be left.
        latency: budget: part of the time that is to be left, measured in ONNX Runtime on one thread.
        ratios: ratios of their own for groups that cut through a parameter of this name ({"layer1.*": 0.3}).
        kinds: prune only these: channels, groups, heads, head-dim, ffn, embedding, experts, hidden.
        reduction: what becomes of the scores of a component's slices: sum, mean, max, first.
        normalise: how scores of different groups become comparable: mean, max, sum, standardise, none.
        batches: most batches of the data that a criterion reads; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.MASKED
    takes: ClassVar[frozenset[str]] = frozenset({"loss"})

    ratio: float = 0.5
    criterion: str = "l1"
    scope: Scope = "uniform"
    ignore: tuple[str, ...] = ()
    round_to: int = 1
    max_ratio: float = 0.9
    min_channels: int = 1
    params: float | None = None
    macs: float | None = None
    bytes: float | None = None
    latency: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ()
    reduction: Reduction = "sum"
    normalise: Normalisation = "mean"
    batches: int = 16

    def __post_init__(self) -> None:
        given = {name: value for name in _FIGURES if (value := getattr(self, name)) is not None}
        for name, good, hint in (
            ("ratio", 0 <= self.ratio < 1, "0 <= ratio < 1"),
            ("max_ratio", 0 < self.max_ratio < 1, "0 < max-ratio < 1"),
            ("round_to", self.round_to >= 1, "1 or more"),
            ("min_channels", self.min_channels >= 1, "1 or more"),
            ("batches", self.batches >= 0, "0 or more"),
            ("ratios", all(0 <= each < 1 for each in self.ratios.values()), "ratios from 0 up to (not including) 1"),
            *((name, 0 < value < 1, f"the part that is to be left: 0 < {name} < 1") for name, value in given.items()),
        ):
            if not good:
                shown = name.replace("_", "-")
                raise OptionError(
                    f"{shown} is {getattr(self, name)}", where=f"prune-channels{{{shown}}}", hint=f"give {hint}"
                )
        if len(given) > 1:
            raise OptionError(f"several budgets: {', '.join(given)}", where="prune-channels", hint="give one")
        if self.scope not in ("uniform", "global", "isomorphic"):
            raise OptionError(
                f"scope is '{self.scope}'", where="prune-channels{scope}", hint="uniform, global or isomorphic"
            )
        find_criterion(self.criterion)

    @property
    def budget(self) -> tuple[Figure, float] | None:
        """The figure that a budget limits, and the part of it that is to be left."""
        return next(((name, value) for name in _FIGURES if (value := getattr(self, name)) is not None), None)

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        coupling = context.get(ChannelCoupling)
        # A budget does not say which ratio will meet it; MACs fall with the square of the width.
        ratio = self.ratio if self.budget is None else 1 - self.budget[1] ** 0.5
        groups, notes = eligible(coupling, self.ignore, ratio, self.kinds)
        if not groups:
            raise PassError("nothing can be pruned", where=self.name, hint=explain_frozen(coupling, self.kinds))
        plan, silent = self._plan(graph, coupling, groups, context)
        solution = self._solve(graph, coupling, plan, context)
        components = plan.components(solution.counts)
        if not len(components):
            if self.budget is None and self.ratio == 0:
                return Changes(False)
            raise PassError(
                f"ratio {ratio:g} with round-to {self.round_to} removes nothing: the groups are too small",
                where=self.name, hint="raise the ratio or lower round-to",
            )  # fmt: skip
        removal = Removal(graph, coupling, components)
        details = {"groups": _group_table(coupling, plan, solution), **self._budget_details(solution)}
        frozen = coupling.frozen_by()
        removal.apply()
        if self.macs is not None:
            notes += filter(None, [unweighed(graph, context.sizes)])
        notes += [*silent, *filter(None, [solution.why or self._achieved(solution)])]
        notes.append(f"{len(components)} of {sum(map(len, groups))} components in {len(groups)} groups removed")
        if frozen:
            notes.append("kept whole: " + _reasons(frozen))
        return Changes(
            True,
            counts={"components": len(components)},
            notes=tuple(notes),
            kept=removal.kept_constants,
            details={"restricted": removal.restricted, **details, "frozen": dict(frozen)},
        )

    def _plan(
        self, graph: Graph, coupling: ChannelCoupling, groups: list[Group], context: Context
    ) -> tuple[Plan, list[str]]:
        evidence = Evidence(context, graph, self.batches)
        scores, notes = score_components(coupling, find_criterion(self.criterion), evidence, groups, self.reduction)
        free = self.scope == "uniform" and self.budget is None
        limits = Limits(self.round_to, self.min_channels, 1.0 if free else self.max_ratio)
        plan = Plan(
            groups, scores, normalised(scores, groups, self.normalise), self.scope, limits,
            overrides(coupling, groups, self.ratios),
            classes_of(coupling, groups) if self.scope == "isomorphic" else None,
        )  # fmt: skip
        return plan, notes

    def _solve(self, graph: Graph, coupling: ChannelCoupling, plan: Plan, context: Context) -> Solution:
        if self.budget is None:
            return Solution(plan.counts(self.ratio), 1.0)
        figure, target = self.budget
        if figure == "latency":
            first = context.data.first().inputs if context.has_data else runnable_inputs(graph, context.seed).inputs
            return solve_latency(plan, Latency(graph, list(first)), target)
        predicted = PredictedCost(coupling, plan.groups, context.sizes)
        cost = {"params": predicted.params, "macs": predicted.macs, "bytes": predicted.bytes}[figure]
        whole = cost(np.zeros(len(plan.groups), dtype=np.int64))
        if whole == 0:
            raise PassError(f"the graph has no {figure} to cut", where=self.name, hint="give a ratio instead")
        return solve(plan, lambda counts: cost(counts) / whole, target, figure)

    def _achieved(self, solution: Solution) -> str:
        if self.budget is None:
            return ""
        return f"{self.budget[0]} {solution.achieved:.3f} of what it was, {self.budget[1]:g} was asked for"

    def _budget_details(self, solution: Solution) -> dict[str, Any]:
        if self.budget is None:
            return {}
        return {"budget": {"figure": self.budget[0], "target": self.budget[1], "achieved": solution.achieved}}


def explain_frozen(coupling: ChannelCoupling, kinds: tuple[Kind, ...] = ()) -> str:
    """Why nothing is left to prune, in a sentence."""
    if kinds and coupling.groups:
        there = sorted(set(kinds_of(coupling, coupling.groups)))
        return f"no group is one of {', '.join(kinds)}; there are: {', '.join(there)}"
    frozen = coupling.frozen_by()
    if coupling.groups:
        rest = f"; the rest is frozen by: {_reasons(frozen)}" if frozen else ""
        return f"every group that could be pruned is on the ignore list or has a single component{rest}"
    if frozen:
        return f"everything is frozen by: {_reasons(frozen)}"
    return "the graph has no weights with channels between its inputs and its outputs"


def _reasons(frozen: Counter[str]) -> str:
    shown = [f"{reason} ({count} components)" for reason, count in frozen.most_common(4)]
    more = [f"{len(frozen) - 4} more reasons"] if len(frozen) > 4 else []
    return "; ".join(shown + more)


def _group_table(coupling: ChannelCoupling, plan: Plan, solution: Solution) -> list[dict[str, object]]:
    kinds = kinds_of(coupling, plan.groups)
    return [
        {"group": coupling.name_of(group), "kind": kind, "components": len(group), "removed": int(removed)}
        for group, kind, removed in zip(plan.groups, kinds, solution.counts, strict=True)
    ]
