"""Numerical equivalence: every pass is held to its contract on sample inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.analysis.shapes import propagate
from graphopt.errors import EquivalenceError
from graphopt.ir import Graph
from graphopt.pipeline.base import Changes, Contract, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument
from graphopt.pipeline.report import PassReport
from graphopt.runtime.compare import Difference, compare
from graphopt.runtime.executor import run
from graphopt.runtime.masked import run_masked
from graphopt.runtime.samples import example_inputs


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

    def before(self, step: Pass, graph: Graph, context: Context, entry: PassReport) -> None:
        propagate(graph)
        if step.contract is Contract.MASKED:
            unique_names(graph)
        self._original = graph.clone()

    def after(self, step: Pass, graph: Graph, context: Context, changes: Changes, entry: PassReport) -> None:
        original, self._original = self._original, None
        if not changes.modified or original is None or step.contract is Contract.TRAINED:
            return
        inputs = self._samples(original, context)
        got = run(graph, inputs)
        if step.contract is Contract.MASKED:
            want = run_masked(original, inputs, changes.kept, changes.details.get("restricted", {}))
        else:
            want = run(original, inputs)
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

    def _samples(self, graph: Graph, context: Context) -> list[torch.Tensor]:
        if self.inputs is not None:
            return list(self.inputs)
        if context.has_data:
            return list(context.data.first().inputs)
        return example_inputs(graph, context.seed)


def _summary(contract: Contract, found: Difference) -> str:
    if contract is Contract.APPROXIMATE:
        return f"output SQNR {found.sqnr:.1f} dB"
    return f"{contract.value} to {found.max_rel:.1e}"


def unique_names(graph: Graph) -> None:
    """Gives every value of the graph, bodies included, a name of its own; names that are unique already stay."""
    taken: set[str] = set()
    for scope in graph.graphs():
        for value in scope.values():
            name, number = value.name, 0
            while not name or name in taken:
                number += 1
                name = f"{value.name or 'value'}_{len(taken) + number}"
            taken.add(name)
            value.name = name
