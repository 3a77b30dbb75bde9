"""The transformers library through graphopt: every architecture in, out to torch and to ONNX, optimised and pruned.

Run by hand: ``python -m tests.bench.transformers_zoo [NAME ...]``. Prints a Markdown table: for each step the seconds
it took, and what it found; a step that fails says why.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.ir import dims as D
from graphopt.pipeline import run_pipeline
from graphopt.pipeline.instruments import Equivalence, Verify
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession
from tests.bench.transformers_models import CASES, Case, Sizes

TORCH_TOLERANCE, ONNX_TOLERANCE, PASS_TOLERANCE = 1e-4, 1e-3, 1e-4
STEPS = ("capture", "to_torch", "to_onnx", "simplify,fuse", "prune")


@dataclass
class Trial:
    """One architecture on its way through.

    Attributes:
        case: what is tried.
        module: in evaluation mode.
        samples: for each size, the traced one first, the arguments and the module's own results.
    """

    case: Case
    module: torch.nn.Module = field(init=False)
    samples: list[tuple[dict[str, torch.Tensor], list[Any]]] = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.module = self.case.make().eval()
        strengthen(self.module)
        self.samples = []
        for sizes in (self.case.traced, *self.case.others):
            arguments = self.case.inputs(sizes)
            with torch.no_grad():
                results = tensors(self.module(**arguments))
            assert all(each.isfinite().all() and each.std() > 1e-3 for each in results), "the outputs say nothing"
            self.samples.append((arguments, results))

    def capture(self) -> go.Graph:
        """The graph; its types hold for every sample."""
        graph = go.capture(self.module, (), self.samples[0][0], dynamic=self.case.dynamic)
        go.verify(graph)
        carried = sorted({node.op for node in graph.walk() if node.domain == "aten"})
        assert not carried, f"carried: {', '.join(carried)}"
        for sizes, (_, want) in zip((self.case.traced, *self.case.others), self.samples, strict=True):
            check_types(graph, sizes, want)
        return graph

    def to_torch(self, graph: go.Graph) -> str:
        """Keys and values of the state dict, and outputs at every size."""
        emitted = go.to_torch(graph)
        mine, theirs = emitted.state_dict(), self.module.state_dict()
        assert set(mine) == set(theirs), f"keys differ: {sorted(set(mine) ^ set(theirs))[:4]}"
        assert list(mine) == list(theirs), "keys come in another order"
        names = [[name for name, _ in module.named_parameters()] for module in (emitted, self.module)]
        assert names[0] == names[1], "parameters come in another order"
        assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
        with torch.no_grad():
            return self._judge(lambda arguments: tensors(emitted(**arguments)), TORCH_TOLERANCE)

    def to_onnx(self, graph: go.Graph) -> str:
        """ONNX Runtime's outputs at every size; the checker ran inside `to_onnx`."""
        session = OrtSession(go.to_onnx(graph))

        def run(arguments: Mapping[str, torch.Tensor]) -> list[Any]:
            return [torch.from_numpy(array) for array in session.run(arguments)]

        return self._judge(run, ONNX_TOLERANCE)

    def optimise(self, graph: go.Graph, pipeline: str) -> str:
        """A pipeline whose passes keep what they promise, and the result in ONNX Runtime at other sizes."""
        inputs = self._inputs(graph, self.samples[1][0])
        report = run_pipeline(graph, pipeline, go.Context(graph), [Verify(), Equivalence(PASS_TOLERANCE, inputs)])
        worst = max((each.checks["equivalence"]["max_rel"] for each in report.passes if "equivalence" in each.checks),
                    default=0.0)  # fmt: skip
        session, emitted = OrtSession(go.to_onnx(graph)), go.to_torch(graph)
        for arguments, want in self.samples:
            with torch.no_grad():
                ours = tensors(emitted(**arguments))
            assert [each.shape for each in ours] == [each.shape for each in want], "shapes changed"
            found = compare([torch.from_numpy(array) for array in session.run(arguments)], ours)
            assert found.within(ONNX_TOLERANCE), f"torch and ONNX Runtime differ by {found.max_rel:.1e}"
        told = [f"; {_shortened(note)}" for each in report.passes for note in each.notes if each.kept]
        return f"{worst:.0e}" + "".join(told)

    def _inputs(self, graph: go.Graph, arguments: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        return [arguments[value.name] for value in graph.inputs]

    def _judge(self, run: Callable[[Mapping[str, torch.Tensor]], list[Any]], tolerance: float) -> str:
        worst = 0.0
        for (arguments, want), sizes in zip(self.samples, (self.case.traced, *self.case.others), strict=True):
            found = compare(run(arguments), want)
            assert found.shapes_equal, f"shapes or element types differ at {dict(sizes)}"
            assert found.within(tolerance), f"off by {found.max_rel:.1e} at {dict(sizes)}"
            worst = max(worst, found.max_rel)
        return f"{worst:.0e}"


def strengthen(module: torch.nn.Module) -> None:
    """Random weights that keep the size of a signal: with the library's own, small ones whole layers hardly count."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (parameter.shape[0] / parameter.numel()) ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def tensors(result: Any) -> list[Any]:
    """The tensors of a result, in order."""
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def check_types(graph: go.Graph, sizes: Sizes, want: Sequence[torch.Tensor]) -> None:
    """Open dimensions of the outputs, with the sizes put in, are the extents that the module gives."""
    for value, tensor in zip(graph.outputs, want, strict=True):
        assert value.shape is not None, f"the rank of '{value.name}' is unknown"
        for dim, extent in zip(value.shape, tensor.shape, strict=True):
            told = D.substitute(dim, dict(sizes))
            assert told == extent, f"'{value.name}' is said to be {value.type}, and is {tuple(tensor.shape)} at {sizes}"


def _shortened(note: str) -> str:
    """A note of the pruning pass without what repeats in every row."""
    return re.sub(r" \(\d+ components\)", "", note).replace("kept whole: ", "kept: ").replace("|", "/")


def attempt(name: str, details: bool) -> list[str]:
    """One row of the table."""
    trial = Trial(CASES[name]())
    graph: list[go.Graph] = []
    steps: list[Callable[[], str]] = [
        lambda: graph.append(trial.capture()) or f"{len(list(graph[0].walk()))} nodes",
        lambda: trial.to_torch(graph[0]),
        lambda: trial.to_onnx(graph[0]),
        lambda: trial.optimise(graph[0].clone(), "simplify,fuse"),
        lambda: trial.optimise(graph[0].clone(), "prune-channels{ratio=0.5}"),
    ]
    row = [name]
    for step in steps:
        started = time.perf_counter()
        try:
            found = step()
        except Exception as error:  # a row for what fails, and on with the next
            if details:
                traceback.print_exc()
            row.append(f"FAILED {type(error).__name__}: " + " ".join(str(error).split())[:300].replace("|", "/"))
            if not graph:
                break
            continue
        row.append(f"{time.perf_counter() - started:.1f} s, {found}")
    return row


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; all by default")
    parser.add_argument("--details", action="store_true", help="tracebacks of what fails")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    print("| architecture | " + " | ".join(STEPS) + " |")
    print("| --- |" + " --- |" * len(STEPS))
    for name in arguments.names or CASES:
        with contextlib.nullcontext() if arguments.details else contextlib.redirect_stderr(io.StringIO()):
            row = attempt(name, arguments.details)
        print("| " + " | ".join(row + [""] * (len(STEPS) + 1 - len(row))) + " |", flush=True)


if __name__ == "__main__":
    main()
