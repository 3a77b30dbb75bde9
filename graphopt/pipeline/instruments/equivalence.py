"""Numerical equivalence: every pass is held to its contract on sample inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.analysis.shapes import propagate
from graphopt.errors import EquivalenceError
from graphopt.ir import Graph
from graphopt.ir.names import unique_names
from graphopt.pipeline.base import Changes, Contract, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument
from graphopt.pipeline.report import PassReport
from graphopt.runtime.compare import Difference, compare
from graphopt.runtime.executor import run
from graphopt.runtime.masked import run_masked
from graphopt.runtime.samples import example_inputs

# A handful of samples shows a wrong rewrite as well as a whole batch does.
MAX_ROWS = 4


class Equivalence(Instrument):
    """Runs the graph before and after each pass and compares, as the pass's contract says.

    Args:
        tolerance: largest difference, relative to the largest magnitude of the output, that counts as equal.
        inputs: sample inputs; the first batch of the run's data by default, random ones when there is none.
        strict: raise when a promise is broken; otherwise only report it.
    """

    def __init__(
        self, tolerance: float = 1e-4, inputs: Sequence[torch.Tensor] | None = None, strict: bool = True
    ) -> None:
        self.tolerance = tolerance
        self.inputs = inputs
        self.strict = strict
        self._original: Graph | None = None
        self._samples: list[torch.Tensor] = []
        self._reference: tuple[int, list[Any]] | None = None

    def before(self, step: Pass, graph: Graph, context: Context, entry: PassReport) -> None:
        propagate(graph)
        if step.contract is Contract.TRAINED:
            return
        if step.contract is Contract.MASKED:
            unique_names(graph)
            self._original = graph.clone()
        if not self._samples:
            self._samples = self._make_samples(graph, context)
        # What the graph computed after the pass before is what it computes now, unless somebody edited it.
        if self._reference is None or self._reference[0] != graph.version:
            self._reference = (graph.version, run(graph, self._samples))

    def after(self, step: Pass, graph: Graph, context: Context, changes: Changes, entry: PassReport) -> None:
        if not changes.modified or self._reference is None or step.contract is Contract.TRAINED:
            return
        got, want = run(graph, self._samples), self._reference[1]
        if step.contract is Contract.MASKED and self._original is not None:
            want = run_masked(self._original, self._samples, changes.kept, changes.details.get("restricted", {}))
        self._original = None
        self._reference = (graph.version, got)
        found = compare(got, want)
        entry.checks["equivalence"] = {
            "contract": step.contract.value,
            "max_abs": found.max_abs,
            "max_rel": found.max_rel,
            "sqnr_db": found.sqnr,
            "summary": _summary(step.contract, found),
        }
        if step.contract is not Contract.APPROXIMATE and not found.within(self.tolerance) and self.strict:
            raise EquivalenceError(
                f"pass '{entry.name}' promised {step.contract.value} results and is off by {found.max_rel:.2e} of the "
                f"largest output (tolerance {self.tolerance:g})",
                where=entry.name,
                hint="the pass was undone; report it with the model, or leave the pass out",
            )

    def _make_samples(self, graph: Graph, context: Context) -> list[torch.Tensor]:
        if self.inputs is not None:
            return list(self.inputs)
        if not context.has_data:
            return example_inputs(graph, context.seed)
        batch = context.data.first().inputs
        rows = [v.shape[0] if v.shape else None for v in graph.inputs]
        free = all(row is not None and not isinstance(row, int) for row in rows)
        return [tensor[:MAX_ROWS] for tensor in batch] if free else list(batch)


def _summary(contract: Contract, found: Difference) -> str:
    if contract is Contract.APPROXIMATE:
        return f"output SQNR {found.sqnr:.1f} dB"
    return f"{contract.value} to {found.max_rel:.1e}"
