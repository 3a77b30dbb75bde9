"""Numerical equivalence: every pass is held to its contract on sample inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.analysis.shapes import propagate
from graphopt.errors import DataError, EquivalenceError, GraphoptError, OptionError, PassError, UnsupportedOperatorError
from graphopt.ir import Graph, ValueType
from graphopt.ir.names import unique_names
from graphopt.ops import record_of
from graphopt.pipeline.base import Changes, Contract, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument
from graphopt.pipeline.report import PassReport
from graphopt.runtime.compare import Difference, compare
from graphopt.runtime.executor import run, run_in_float64
from graphopt.runtime.masked import run_masked
from graphopt.runtime.samples import runnable_inputs
from graphopt.runtime.tolerance import TOLERANCE, tolerance_of

# A handful of samples shows a wrong rewrite as well as a whole batch does.
MAX_ROWS = 4


class Equivalence(Instrument):
    """Runs the graph before and after each pass and compares, as the pass's contract says.

    A graph that cannot be executed here (an operator of a custom domain) is left unchecked, and the report says why.

    Args:
        tolerance: largest difference, relative to the largest magnitude of the output, that counts as equal; by default
            1e-4, or what `graphopt.runtime.tolerance` grants a graph that computes in a coarser type; a pruned graph
            that is further away has to be as close in float64.
        inputs: sample inputs; the first batch of the run's data by default, random ones when there is none.
        strict: raise when a promise is broken; otherwise only report it.
    """

    def __init__(
        self, tolerance: float | None = None, inputs: Sequence[torch.Tensor] | None = None, strict: bool = True
    ) -> None:
        if tolerance is not None and (not isinstance(tolerance, (int, float)) or not tolerance >= 0):  # nor is NaN
            raise OptionError(f"tolerance is {tolerance!r}", where="tolerance", hint="give 0 or more, such as 1e-4")
        self.tolerance = tolerance
        self.inputs = inputs
        self.strict = strict
        self._graph: Graph | None = None
        self._original: Graph | None = None
        self._samples: list[torch.Tensor] | None = None
        self._reference: tuple[int, list[Any]] | None = None
        self._unchecked = ""
        self._refused: list[ValueType] | None = None  # types of inputs that no made-up ones fitted
        self._sizes = ""  # shapes of made-up inputs, where they had to be larger than usual
        self._kinds: list[ValueType] = []

    def before(self, step: Pass, graph: Graph, context: Context, entry: PassReport) -> None:
        propagate(graph)
        if self._graph is not graph:
            self._graph, self._samples, self._reference, self._refused = graph, None, None, None
        self._original = None
        self._kinds = [value.type for value in graph.inputs]
        if step.contract is Contract.TRAINED:
            return
        if step.contract is Contract.MASKED:
            unique_names(graph)
            self._original = graph.clone()
        # What the graph computed after the pass before is what it computes now, unless somebody edited it.
        if self._reference is None or self._reference[0] != graph.version:
            # A graph that has been rewritten refuses what it did before; searching takes seconds.
            self._reference = None if self._refused == self._kinds else self._run_before(graph, context)

    def _run_before(self, graph: Graph, context: Context) -> tuple[int, list[Any]] | None:
        given = self.inputs is not None or context.has_data
        self._unchecked = ""
        try:
            if self._samples is None and not given:
                made = runnable_inputs(graph, context.seed)
                self._samples, self._sizes = made.inputs, str(made)
                return graph.version, made.results
            if self._samples is None:
                self._samples = self._given_samples(graph, context)
            return graph.version, self._run(graph, context.seed)
        except (UnsupportedOperatorError, PassError, DataError) as error:
            # An unknown operator says nothing against a pass, nor does a graph that our random inputs do not fit.
            if given and not isinstance(error, UnsupportedOperatorError):
                raise
            if not isinstance(error, UnsupportedOperatorError):
                self._refused = self._kinds
            self._unchecked = error.what
            return None

    def _run(self, graph: Graph, seed: int) -> list[Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return run(graph, self._samples or [])

    def after(self, step: Pass, graph: Graph, context: Context, changes: Changes, entry: PassReport) -> None:
        if not changes.modified or step.contract is Contract.TRAINED:
            return
        if self._kinds != [value.type for value in graph.inputs]:
            # Samples of another shape say nothing any more; the passes that follow are held to new ones.
            self._samples, self._reference = None, None
            self._unchecked = "the types of the inputs have changed"
        if self._reference is None:
            entry.checks["equivalence"] = {"contract": step.contract.value, "summary": f"unchecked: {self._unchecked}"}
            return
        got, want = self._run(graph, context.seed), self._reference[1]
        if step.contract is Contract.MASKED:
            want = self._masked(changes)
        self._reference = (graph.version, got)
        self._judge(step, graph, context, entry, got, want, changes)

    def _masked(self, changes: Changes, *, float64: bool = False) -> list[Any]:
        assert self._original is not None
        restricted, zeroed = changes.details.get("restricted", {}), changes.details.get("zeroed", ())
        return run_masked(self._original, self._samples or [], changes.kept, restricted, zeroed, float64=float64)

    def _judge(
        self, step: Pass, graph: Graph, context: Context, entry: PassReport, got: list[Any], want: list[Any],
        changes: Changes,
    ) -> None:  # fmt: skip
        if len(got) != len(want):
            raise EquivalenceError(f"the graph has {len(got)} outputs and had {len(want)}", where=entry.name)
        found = compare(got, want)
        broken, rounding = not found.shapes_equal, False
        tolerance = self._tolerance(graph, found)
        if step.contract is not Contract.APPROXIMATE and not found.within(tolerance):
            if step.contract is Contract.MASKED and self.tolerance is None:
                rounding = self._is_rounding(graph, changes, tolerance)
            broken |= not rounding and not self._is_random(graph, context, tolerance)
        entry.checks["equivalence"] = {
            "contract": step.contract.value,
            "max_abs": found.max_abs,
            "max_rel": found.max_rel,
            "sqnr_db": found.sqnr,
            "summary": _summary(step.contract, found, broken)
            + (" by rounding (not in float64)" if rounding else "")
            + (f" on {self._sizes}" if self._sizes else ""),
        }
        if broken and self.strict:
            off = (
                f"is off by {found.max_rel:.2e} of the largest output (tolerance {tolerance:g})"
                if found.shapes_equal
                else "changed shapes or element types of the outputs"
            )
            raise EquivalenceError(
                f"it promised {step.contract.value} results and {off}", where=entry.name,
                hint="the pass was undone; report it with the model, or leave the pass out",
            )  # fmt: skip

    def _tolerance(self, graph: Graph, found: Difference) -> float:
        if self.tolerance is not None:
            return self.tolerance
        return TOLERANCE if found.within(TOLERANCE) else tolerance_of(graph)

    def _is_rounding(self, graph: Graph, changes: Changes, tolerance: float) -> bool:
        """True when a pruned graph and the masked original are as close as they should be in float64.

        They add up the same numbers in another order, which a deep network may turn into more than the tolerance.
        """
        try:
            got, want = run_in_float64(graph, self._samples or []), self._masked(changes, float64=True)
        except GraphoptError:  # an operator that does not compute in float64
            return False
        return compare(got, want).within(tolerance)

    def _is_random(self, graph: Graph, context: Context, tolerance: float) -> bool:
        """True when the graph gives other results under another seed."""
        if not any((record := record_of(node)) is not None and record.random for node in graph.walk()):
            return False
        first, second = self._run(graph, context.seed), self._run(graph, context.seed + 1)
        return not compare(second, first).within(tolerance)

    def _given_samples(self, graph: Graph, context: Context) -> list[torch.Tensor]:
        if self.inputs is not None:
            return list(self.inputs)
        batch = context.data.first().inputs
        rows = [v.shape[0] if v.shape else None for v in graph.inputs]
        free = all(row is not None and not isinstance(row, int) for row in rows)
        return [tensor[:MAX_ROWS] for tensor in batch] if free else list(batch)


def _summary(contract: Contract, found: Difference, broken: bool) -> str:
    if contract is Contract.APPROXIMATE:
        return f"output SQNR {found.sqnr:.1f} dB"
    return f"{'not ' if broken else ''}{contract.value} to {found.max_rel:.1e}"
