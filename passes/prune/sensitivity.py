"""Sensitivity: what each group of channels is worth, as a curve of quality against ratio."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from graphopt.analysis.coupling import ChannelCoupling
from graphopt.errors import DataError, OptionError, PassError
from graphopt.ir import Graph
from graphopt.ir.names import unique_names
from graphopt.passes.prune.channels import explain_frozen
from graphopt.passes.prune.criteria import Evidence, find_criterion
from graphopt.passes.prune.curves import to_html
from graphopt.passes.prune.importance import score_components
from graphopt.passes.prune.kinds import Kind, kinds_of
from graphopt.passes.prune.plan import Limits, Plan
from graphopt.passes.prune.removal import Removal
from graphopt.passes.prune.selection import eligible
from graphopt.passes.train.losses import classification
from graphopt.pipeline import Batch, Changes, Context, Contract, Pass, register
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.masked import run_masked


@register("sensitivity")
@dataclass(frozen=True)
class Sensitivity(Pass):
    """Measure how much each group of channels matters, by leaving out parts of it, one group at a time.

    The graph stays as it is. Curves go to the report's details and, as HTML or JSON, to a file. With a target they are
    turned into ratios for ``prune-channels{ratios=...}`` that cost each group equally much.

    Attributes:
        ratios: parts of a group that are left out.
        metric: "loss" or "accuracy" on labelled data; "change" is the output's relative change (no labels); "evaluate"
            asks the run's own measure; "auto" takes the best that the run has what it needs for.
        criterion: which channels of a group go first.
        ignore: patterns of parameter names or module paths to leave alone.
        kinds: measure only these: channels, heads, head-dim, ffn, embedding, ...
        target: mean ratio that an allocation is made for; none makes no allocation.
        file: where the curves go: a page (.html) or data (.json).
        batches: most batches of the data that are read; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.EXACT
    takes: ClassVar[frozenset[str]] = frozenset({"loss"})

    ratios: tuple[float, ...] = (0.25, 0.5, 0.75)
    metric: Literal["auto", "loss", "accuracy", "change", "evaluate"] = "auto"
    criterion: str = "l1"
    ignore: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    target: float | None = None
    file: Path | None = None
    batches: int = 16

    def __post_init__(self) -> None:
        for name, good, hint in (
            ("ratios", self.ratios and all(0 < r < 1 for r in self.ratios), "one or more ratios between 0 and 1"),
            ("target", self.target is None or 0 < self.target < 1, "0 < target < 1"),
            ("batches", self.batches >= 0, "0 or more"),
            ("file", self.file is None or self.file.suffix in (".html", ".json"), "a name that ends in .html or .json"),
        ):
            if not good:
                raise OptionError(
                    f"{name} is {getattr(self, name)}", where=f"sensitivity{{{name}}}", hint=f"give {hint}"
                )
        if self.file is not None and not self.file.parent.is_dir():
            raise OptionError(
                f"there is no folder '{self.file.parent}'", where="sensitivity{file}", hint="make it first"
            )
        find_criterion(self.criterion)

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        coupling = context.get(ChannelCoupling)
        groups, notes = eligible(coupling, self.ignore, max(self.ratios), self.kinds)
        if not groups:
            raise PassError("nothing can be pruned", where=self.name, hint=explain_frozen(coupling, self.kinds))
        measure = _Measure(graph, context, self.metric, self.batches)
        evidence = Evidence(context, graph, self.batches)
        scores, more = score_components(coupling, find_criterion(self.criterion), evidence, groups)
        plan = Plan(groups, scores, scores, "uniform", Limits())
        baseline = measure(None)
        curves = []
        ratios = sorted(self.ratios)
        for position, kind in context.progress(enumerate(kinds_of(coupling, groups)), "sensitivity", len(groups)):
            values = []
            for ratio in ratios:
                counts = np.zeros(len(groups), dtype=np.int64)
                counts[position] = plan.counts(ratio)[position]
                components = plan.components(counts)
                values.append(measure(Removal(graph, coupling, components) if len(components) else None))
            group = groups[position]
            curves.append({"group": coupling.name_of(group), "kind": kind, "components": len(group), "values": values})
        found: dict[str, Any] = {
            "metric": measure.metric, "higher_is_better": measure.higher, "baseline": baseline, "ratios": ratios,
            "curves": curves,
        }  # fmt: skip
        if self.target is not None:
            found["allocation"] = allocate(found, self.target)
        if self.file is not None:
            self.file.write_text(to_html(found) if self.file.suffix == ".html" else json.dumps(found, indent=2))
        worst = max(curves, key=lambda curve: _losses(found, curve)[-1])
        notes.append(f"{measure.metric} {baseline:.4g}; most sensitive: {worst['group']}")
        return Changes(False, notes=(*notes, *more), details={"sensitivity": found})


def allocate(found: Mapping[str, Any], target: float) -> dict[str, float]:
    """Ratios, by group, that cost every group about equally much and whose mean over channels is `target`.

    Args:
        found: what the pass found (``details["sensitivity"]``).
        target: mean ratio over all components.
    """
    curves = found["curves"]
    sizes = np.array([curve["components"] for curve in curves], dtype=float)
    grid = np.array([0.0, *found["ratios"]])
    # What comes after a worse point is not better: a curve must rise to be inverted.
    losses = [np.maximum.accumulate([0.0, *_losses(found, curve)]) for curve in curves]

    def at(cost: float) -> np.ndarray:
        return np.array([_highest(grid, loss, cost) for loss in losses])

    low, high = 0.0, max(float(loss[-1]) for loss in losses)
    for _ in range(60):
        middle = (low + high) / 2
        if float((at(middle) * sizes).sum() / sizes.sum()) < target:
            low = middle
        else:
            high = middle
    return {curve["group"]: round(float(ratio), 4) for curve, ratio in zip(curves, at(high), strict=True)}


def _highest(grid: np.ndarray, loss: np.ndarray, cost: float) -> float:
    """The highest ratio whose loss is at most `cost`, between measured points by interpolation."""
    inside = int(np.searchsorted(loss, cost, side="right")) - 1
    if inside >= len(grid) - 1:
        return float(grid[-1])
    step = loss[inside + 1] - loss[inside]
    part = (cost - loss[inside]) / step if step > 0 else 0.0
    return float(grid[inside] + part * (grid[inside + 1] - grid[inside]))


def _losses(found: Mapping[str, Any], curve: Mapping[str, Any]) -> list[float]:
    sign = -1.0 if found["higher_is_better"] else 1.0
    return [sign * (value - found["baseline"]) for value in curve["values"]]


class _Measure:
    """The quality of a graph with some of its channels left out."""

    def __init__(self, graph: Graph, context: Context, metric: str, batches: int) -> None:
        self.graph = graph
        self.context = context
        self._batches = list(islice(context.data, batches or None)) if context.has_data else []
        self.metric = _choose(context, metric, self._batches)
        self.higher = self.metric in ("accuracy", "evaluate")
        self._original = [run(graph, batch.inputs) for batch in self._batches] if self.metric == "change" else []

    def __call__(self, removal: Removal | None) -> float:
        if removal is not None:
            removal.note()
        if self.metric == "evaluate":
            return self._evaluate(removal)
        values = []
        for number, batch in enumerate(self._batches):
            outputs = (
                run(self.graph, batch.inputs)
                if removal is None
                else run_masked(self.graph, batch.inputs, removal.kept_constants, removal.restricted)
            )
            values.append(self._value(outputs, batch, number))
        return float(np.mean(values))

    def _evaluate(self, removal: Removal | None) -> float:
        rule = self.context.evaluate
        assert rule is not None
        twin = self.graph.clone()
        if removal is not None:
            twin_coupling = ChannelCoupling(twin)
            Removal(twin, twin_coupling, removal.components).apply()
        return float(rule(twin))

    def _value(self, outputs: Sequence[Any], batch: Batch, number: int) -> float:
        if self.metric == "change":
            return compare(outputs, self._original[number]).max_rel
        if self.metric == "accuracy":
            return float((outputs[0].argmax(1) == batch.labels).double().mean())
        rule = self.context.options.get("loss", classification)
        value: torch.Tensor = rule(outputs[0], batch.labels)
        return float(value)


def _choose(context: Context, metric: str, batches: Sequence[Batch]) -> str:
    labelled = bool(batches) and all(batch.labels is not None for batch in batches)
    if metric == "auto":
        if context.evaluate is not None:
            return "evaluate"
        metric = "loss" if labelled or (batches and "loss" in context.options) else "change"
    if metric == "evaluate" and context.evaluate is None:
        raise OptionError("the run was given no measure", where="sensitivity{metric}", hint="pass evaluate=function")
    if metric != "evaluate" and not batches:
        raise DataError(
            "sensitivity needs data and the run was given none", where="sensitivity",
            hint="pass data=..., or --data FILE.npz",
        )  # fmt: skip
    own_loss = metric == "loss" and "loss" in context.options
    if metric in ("loss", "accuracy") and not labelled and not own_loss:
        raise DataError(f"{metric} needs labels", where="sensitivity{metric}", hint="give labels, or metric=change")
    return metric
