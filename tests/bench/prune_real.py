"""Structured pruning of ONNX files that ship in packages on PyPI, as they are and after simplify and fuse.

Run by hand: ``GRAPHOPT_REAL_MODELS=FOLDER python -m tests.bench.prune_real [NAME ...] [--details]``, where the folder
holds unpacked wheels; every distinct ``*.onnx`` under it is a model. Prints a Markdown table; ``--table`` names
others.

Half of the components go, uniform and global. Each result is held to the masked original and run in ONNX Runtime, from
the saved file, at two sizes of the input. A network that says the same of any input after that (detectors of text do,
on noise) is pruned less as well, until it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.analysis.shapes import propagate
from graphopt.errors import PassError
from graphopt.ir.names import unique_names
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import Equivalence, Verify
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.masked import run_masked
from graphopt.runtime.ort import OrtSession
from tests.bench.cpu_time import cpu_medians

TOLERANCE, ONNX_TOLERANCE = 1e-4, 1e-3
SCOPES = ("uniform", "global")
PIPELINES = ("", "simplify,fuse")
RATIOS = (0.5, 0.3, 0.1)

#: Batch, height and width where a file leaves them open: the first two that ONNX Runtime runs.
SIZES = ((1, 48, 320), (2, 48, 192), (1, 320, 320), (2, 256, 320), (1, 64, 160), (1, 64, 256))

Feed = dict[str, np.ndarray]


@dataclass
class Subject:
    """One file, and inputs of two sizes."""

    name: str
    path: Path
    feeds: list[Feed]

    def graph(self, pipeline: str) -> go.Graph:
        found = go.load(self.path)
        if pipeline:
            go.optimize(found, pipeline, check=False)
        unique_names(found)
        propagate(found)
        return found

    def samples(self, graph: go.Graph) -> list[list[torch.Tensor]]:
        return [[torch.from_numpy(feed[value.name]) for value in graph.inputs] for feed in self.feeds]


def subjects(names: list[str]) -> Iterator[Subject]:
    """Every distinct file of the folder, named by its package and itself, that has one of `names` in its name."""
    folder = Path(os.environ["GRAPHOPT_REAL_MODELS"])
    seen: set[str] = set()
    for path in sorted(folder.rglob("*.onnx")):
        key = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.stat().st_size < 10_000 or key in seen:
            continue
        seen.add(key)
        parts = [each for each in path.relative_to(folder).with_suffix("").parts if each not in ("models", "resources")]
        name = "/".join([parts[0], *parts[2:][-3:]])
        if not names or any(each in name for each in names):
            yield Subject(name, path, feeds(path))


def feeds(path: Path) -> list[Feed]:
    """Inputs of two sizes (of one, where the file leaves nothing open) that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    found: list[Feed] = []
    shapes: set[str] = set()
    for sizes in SIZES:
        wanted = {each.name: _sized(each.shape, sizes) for each in session.get_inputs()}
        if str(wanted) in shapes:
            continue
        feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in wanted.items()}
        with contextlib.suppress(Exception):  # a size that the model was not made for
            session.run(None, feed)
            shapes.add(str(wanted))
            found.append(feed)
        if len(found) == 2:
            break
    return found


def _sized(shape: list[int | str | None], sizes: tuple[int, ...]) -> list[int]:
    given = {0: sizes[0], len(shape) - 2: sizes[1], len(shape) - 1: sizes[2]}
    return [dim if isinstance(dim, int) and dim > 0 else given[k] for k, dim in enumerate(shape)]


# -- what pruning promises


@dataclass
class Outcome:
    """What pruning left, and how far it is from what it promises."""

    graph: go.Graph
    parameters: float
    macs: float
    error: float
    apart: float
    seconds: float
    frozen: dict[str, int]
    alive: bool


def prune(original: go.Graph, samples: list[list[torch.Tensor]], options: str, out: Path) -> Outcome:
    """Prunes a copy and checks all that is promised."""
    graph = original.clone()
    text = f"prune-channels{{{options}}}"
    started = time.process_time()
    go.optimize(original.clone(), text, check=False)
    seconds = time.process_time() - started
    report = run_pipeline(graph, text, Context(graph), [Verify(), Equivalence(TOLERANCE, samples[0])])
    details = report.passes[0].details
    go.save(graph, out)
    whole, rest, session = logits(original), logits(graph), OrtSession(out)
    error = apart = 0.0
    for inputs in samples:
        want, got = run_masked(whole, inputs, report.kept, details["restricted"]), run(rest, inputs)
        error = max(error, compare(got, want).max_rel)
        # Kernels of integers round on the way: they may be as far apart as on the original, and some.
        bound = max(ONNX_TOLERANCE, 5 * compare(in_onnxruntime(whole, inputs), run(whole, inputs)).max_rel)
        found = compare(in_onnxruntime(rest, inputs), got).max_rel
        assert found <= bound, f"ONNX Runtime differs by {found:.1e}"
        apart = max(apart, found)
        check_file(session, run(graph, inputs), inputs, bound)
    assert error <= TOLERANCE, f"differs by {error:.1e} from the masked original"
    other = [each.flatten().flip(0).reshape(each.shape) * 1.5 for each in samples[0]]
    alive = compare(run(rest, other), run(rest, samples[0])).max_rel > 1e-3
    before, after = (Cost(at_size(each, samples[0])) for each in (original, graph))
    return Outcome(
        graph, after.weights / before.weights, after.macs / before.macs, error, apart, seconds, details["frozen"], alive
    )


def check_file(session: OrtSession, want: list[torch.Tensor], inputs: list[torch.Tensor], bound: float) -> None:
    """The saved file gives results as large as they should be, to `bound` of the largest, or of 1."""
    found = compare([torch.from_numpy(each) for each in session.run(inputs)], want)
    largest = max(1.0, *(float(each.abs().max()) for each in want))
    assert found.max_abs <= bound * largest, f"the saved file is off by {found.max_abs:.1e}"


def logits(graph: go.Graph) -> go.Graph:
    """A copy that ends before its last Sigmoid or Softmax, whose results on noise are near zero or one."""
    twin = graph.clone()
    ends = [(value.producer, value) for value in twin.outputs]
    values = [last.operand(0) if last and last.op in ("Sigmoid", "Softmax") else value for last, value in ends]
    twin.set_outputs(values, twin.output_names)
    return twin


def at_size(graph: go.Graph, inputs: list[torch.Tensor]) -> go.Graph:
    """A copy without open dimensions."""
    twin = graph.clone()
    for value, tensor in zip(twin.inputs, inputs, strict=True):
        value.type = value.tensor_type.with_shape(tuple(tensor.shape))
    propagate(twin)
    return twin


def in_onnxruntime(graph: go.Graph, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.from_numpy(each) for each in OrtSession(go.to_onnx(graph)).run(inputs)]


# -- the tables


def halves(subject: Subject, out: Path) -> list[str]:
    """Half of everything, uniform and global, as it is and after simplify and fuse."""
    found: list[Outcome] = []
    errors: list[tuple[float, float]] = []
    least = 0.5
    for pipeline in PIPELINES:
        graph = subject.graph(pipeline)
        samples = subject.samples(graph)
        for scope in SCOPES:
            for ratio in RATIOS:
                outcome = prune(graph, samples, f"ratio={ratio},scope={scope}", out)
                errors.append((outcome.error, outcome.apart))
                if ratio == RATIOS[0]:
                    found.append(outcome)
                if outcome.alive:
                    break
            least = min(least, ratio)
    frozen = found[0].frozen
    reasons = [f"{reason} ({frozen[reason]})" for reason in sorted(frozen, key=frozen.__getitem__, reverse=True)]
    return [
        *(" ".join(f"{each.parameters:.2f}" for each in pair) for pair in (found[:2], found[2:])),
        *(" ".join(f"{each.macs:.2f}" for each in pair) for pair in (found[:2], found[2:])),
        *(f"{max(each):.0e}" for each in zip(*errors, strict=True)),
        f"{least:g}", " ".join(f"{min(each.seconds for each in pair):.2f}" for pair in (found[:2], found[2:])),
        "; ".join(reasons[:3]),
    ]  # fmt: skip


def latency(subject: Subject, out: Path) -> list[str]:
    """Milliseconds of the original, and the part that is left of them, in turns, on one thread."""
    graph = subject.graph(PIPELINES[1])
    inputs = subject.samples(graph)[0]
    sessions, macs = {"original": OrtSession(go.to_onnx(graph))}, []
    for options in ("round-to=1", "round-to=8", "round-to=16"):
        outcome = prune(graph, [inputs], f"ratio=0.5,{options}", out)
        sessions[options] = OrtSession(out)
        macs.append(f"{outcome.macs:.2f}")
    calls = {key: (lambda session=session: session.run(inputs)) for key, session in sessions.items()}
    taken = cpu_medians(calls, 31)
    parts = [f"{taken[key] / taken['original']:.2f}" for key in sessions if key != "original"]
    return [f"{taken['original']:.1f}", *(f"{a}, {b}" for a, b in zip(macs, parts, strict=True))]


def budgets(subject: Subject, out: Path) -> list[str]:
    """What is left under budgets; of multiply-accumulates at the size of the first input."""
    graph = subject.graph("")
    inputs = subject.samples(graph)[0]
    cells = []
    for options in ("macs=0.5", "macs=0.25", "params=0.5", "params=0.5,round-to=8"):
        twin = graph.clone()
        try:
            report = go.optimize(twin, f"prune-channels{{{options},scope=global}}", [inputs], check=False)
        except PassError as error:  # the budget is out of reach
            cells.append(said(error)[:120])
            continue
        before, after = (Cost(at_size(each, inputs)) for each in (graph, twin))
        true = after.macs / before.macs if options.startswith("macs") else after.weights / before.weights
        cells.append(
            f"{true:.3f}" + ("" if abs(report.passes[0].details["budget"]["achieved"] - true) < 1e-3 else " !")
        )
    return cells


TABLES: dict[str, tuple[Callable[[Subject, Path], list[str]], tuple[str, ...]]] = {
    "halves": (
        halves,
        ("parameters", "fused", "MACs", "fused", "error", "in ONNX Runtime", "down to", "seconds", "kept whole"),
    ),
    "latency": (latency, ("ms", "round-to=1", "8", "16")),
    "budgets": (budgets, ("macs=0.5", "macs=0.25", "params=0.5", "params=0.5, round-to=8")),
}


def said(error: Exception) -> str:
    return f"FAILED {type(error).__name__}: " + " ".join(str(error).split())[:300].replace("|", "/")


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names of models; all by default")
    parser.add_argument("--table", choices=list(TABLES), default="halves")
    parser.add_argument("--details", action="store_true", help="tracebacks of what fails")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    make, columns = TABLES[arguments.table]
    print("| " + " | ".join(("model", *columns)) + " |")
    print("|" + " --- |" * (1 + len(columns)))
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(arguments.names):
            try:
                cells = make(subject, Path(folder) / "out.onnx")
            except Exception as error:  # a line for what fails, and on with the next
                if arguments.details:
                    traceback.print_exc()
                cells = [said(error)]
            print("| " + " | ".join([subject.name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
