"""Every model of the zoo and of the transformers list, pruned from torch and from its ONNX file.

Run by hand: ``python -m tests.bench.prune_zoo [NAME ...] [--details]``. Prints a Markdown table.

Half of the components go, uniform and global. Each result is held to the masked original (normalisations over pruned
channels restricted to the kept ones), computes the same as a torch module and in ONNX Runtime, and takes a step of
training. The file is what torch.onnx.export writes; both roads have to keep the same indices of every weight that is in
both, as it is or transposed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import logging
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.ir.names import unique_names
from graphopt.models import ZOO, build
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import Equivalence, Verify
from graphopt.runtime import run
from graphopt.runtime.calls import call_flat
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession
from tests.bench.transformers_models import CASES
from tests.bench.transformers_zoo import Trial, tensors

TOLERANCE, ONNX_TOLERANCE = 1e-4, 1e-3
SCOPES = ("uniform", "global")
COLUMNS = ("model", *(f"{scope}, {road}" for scope in SCOPES for road in ("torch", "file")), "same indices", "seconds")

#: By name and dimension, the indices that stay.
Kept = Mapping[str, Mapping[int, list[int]]]


@dataclass
class Subject:
    """One model: as a module, and as the graphs that both roads give."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    roads: dict[str, go.Graph] = field(default_factory=dict)
    inputs: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def open_roads(self) -> None:
        """Captures the module and loads its file; a road that is closed says why."""
        leaves = tensors((self.args, self.kwargs))
        for road, made in (("torch", self._captured), ("file", self._loaded)):
            try:
                graph = made()
            except Exception as error:  # reported in the table
                self.failed[road] = said(error)
                continue
            unique_names(graph)
            by_name = all(value.name in self.kwargs for value in graph.inputs)
            self.roads[road] = graph
            self.inputs[road] = [self.kwargs[value.name] for value in graph.inputs] if by_name else leaves

    def _captured(self) -> go.Graph:
        return go.capture(self.module, self.args, self.kwargs)

    def _loaded(self) -> go.Graph:
        # The exporter's optimizer folds normalisations into the weights, which then are others than the module's.
        for options in ({"dynamo": True, "optimize": False, "external_data": False}, {"dynamo": False}):
            try:
                found = go.load(self._exported(**options))
                self.notes += [] if options["dynamo"] else ["file of the legacy exporter"]
                return found
            except Exception as error:  # one of torch's two exporters has to do
                refused = error
        self.notes.append("both of torch's exporters refuse it, the file is graphopt's")
        if "torch" not in self.roads:
            raise refused
        return go.load(go.to_onnx(self.roads["torch"]))

    def _exported(self, **options: Any) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(self.module, self.args, path, kwargs=self.kwargs, verbose=False, **options)
            return path.read_bytes()


def subject(name: str) -> Subject:
    if name in ZOO:
        module, args = build(name)
        return Subject(module, args, {})
    trial = Trial(CASES[name]())
    return Subject(trial.module, (), trial.samples[0][0])


def prune(road: str, scope: str, trial: Subject) -> tuple[Kept, str]:
    """Prunes a copy and checks all that is promised: what was kept, and the largest error."""
    graph, inputs = trial.roads[road].clone(), trial.inputs[road]
    before = Cost(graph).weights
    text = f"prune-channels{{ratio=0.5,scope={scope}}}"
    report = run_pipeline(graph, text, Context(graph), [Verify(), Equivalence(TOLERANCE, inputs)])
    error = report.passes[0].checks["equivalence"]["max_rel"]
    want = run(graph, inputs)
    module = go.to_torch(graph)
    with torch.no_grad():
        assert compare(call_flat(module.eval(), graph, inputs), want).within(TOLERANCE), "the torch module differs"
    check_step(module, graph, inputs)
    there = [torch.from_numpy(each) for each in OrtSession(go.to_onnx(graph)).run(inputs)]
    found = compare(there, want)
    assert found.within(ONNX_TOLERANCE), f"ONNX Runtime differs by {found.max_rel:.1e}"
    return report.kept, f"{Cost(graph).weights / before:.2f}, {error:.0e}"


def check_step(module: nn.Module, graph: go.Graph, inputs: list[torch.Tensor]) -> None:
    """One step of training moves the parameters, and leaves them finite."""
    parameters = [each for each in module.parameters() if each.requires_grad]
    if not parameters:  # a file says nothing of what is to be trained
        parameters = [each.requires_grad_() for each in module.parameters() if each.is_floating_point()]
    before = [each.detach().clone() for each in parameters]
    optimizer = torch.optim.SGD(parameters, 1e-3)
    results = [each for each in call_flat(module, graph, inputs) if each.is_floating_point()]
    sum(each.square().mean() for each in results).backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True)), "no parameter was trained"
    assert all(bool(each.isfinite().all()) for each in parameters), "training ends in NaN"


def same_indices(trial: Subject, kept: Mapping[str, Kept]) -> tuple[int, list[str]]:
    """How many weights both roads have, and those of which they keep different indices."""
    ours, theirs = fingerprints(trial.roads["torch"]), fingerprints(trial.roads["file"])
    both = [key for key in ours if key in theirs and ours[key] is not None and theirs[key] is not None]
    seen: set[str] = set()
    differ = []
    for key in both:
        (name, flipped), (other, other_flipped) = ours[key] or ("", False), theirs[key] or ("", False)
        if name in seen:
            continue
        seen.add(name)
        mine = oriented(kept["torch"].get(name, {}), flipped)
        if mine != oriented(kept["file"].get(other, {}), other_flipped):
            differ.append(name)
    return len(seen), differ


def oriented(dims: Mapping[int, list[int]], flipped: bool) -> dict[int, list[int]]:
    return {1 - dim if flipped else dim: indices for dim, indices in dims.items()}


def fingerprints(graph: go.Graph) -> dict[str, tuple[str, bool] | None]:
    """The weights of a graph by their contents, as they are and transposed; none where two are alike."""
    found: dict[str, tuple[str, bool] | None] = {}
    for name, flipped, tensor in views(graph):
        key = hashlib.sha256(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes()).hexdigest()
        found[key] = None if key in found else (name, flipped)
    return found


def views(graph: go.Graph) -> Iterator[tuple[str, bool, torch.Tensor]]:
    for value in graph.constants:
        data = value.data
        if not isinstance(data, torch.Tensor) or not data.is_floating_point() or data.dim() < 2:
            continue
        yield value.name, False, data.detach()
        if data.dim() == 2:
            yield value.name, True, data.detach().t()


def said(error: Exception) -> str:
    return f"FAILED {type(error).__name__}: " + " ".join(str(error).split())[:160].replace("|", "/")


def row(name: str, details: bool) -> list[str]:
    """One line of the table."""
    started = time.perf_counter()
    trial = subject(name)
    trial.open_roads()
    cells, verdicts = [], []
    for scope in SCOPES:
        kept: dict[str, Kept] = {}
        for road in ("torch", "file"):
            if road in trial.failed:
                cells.append(trial.failed[road])
                continue
            try:
                kept[road], cell = prune(road, scope, trial)
            except Exception as error:  # a cell for what fails, and on with the next
                if details:
                    traceback.print_exc()
                cell = said(error)
            cells.append(cell)
        if len(kept) == 2:
            count, differ = same_indices(trial, kept)
            verdicts.append(f"{count}" if not differ else f"{count - len(differ)} of {count} ({', '.join(differ[:3])})")
    return [name, *cells, "; ".join(dict.fromkeys([*verdicts, *trial.notes])), f"{time.perf_counter() - started:.1f}"]


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models; all by default")
    parser.add_argument("--details", action="store_true", help="tracebacks of what fails")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    quiet: Callable[[], contextlib.AbstractContextManager[Any]] = (
        contextlib.nullcontext if arguments.details else lambda: contextlib.redirect_stderr(io.StringIO())
    )
    for name in arguments.names or (*ZOO, *CASES):
        with quiet():
            cells = row(name, arguments.details)
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
