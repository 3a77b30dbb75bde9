"""Differential fuzzing: random graphs through ``simplify,fuse``; ONNX Runtime before and after must agree.

Run by hand: ``python -m tests.bench.fuzz_simplify --count 5000``. A disagreement beyond rounding is looked at again in
double precision with torch, where only what is wrong differs; its seed is printed, and ``--seed N --show`` shows it.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from graphopt.backends.onnx_model import to_onnx
from graphopt.backends.onnx_opset import possible_opsets
from graphopt.errors import GraphoptError
from graphopt.ir import DType, Graph
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import Verify
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.samples import example_inputs
from tests.bench.fuzz_graphs import Grower
from tests.passes.rule_cases import in_precision

# Constants in files are float32: what they stand for is off by 1e-8. Tails of activations cancel to next to nothing.
TOLERANCE, DOUBLE_TOLERANCE, DOUBLE_NOISE = 1e-5, 1e-6, 1e-10


@dataclass
class Tally:
    """What came of the graphs.

    Attributes:
        verdicts: how many were right, rounded, refused by ONNX Runtime before anything was done, or wrong.
        wrong: seeds and what happened.
        hits: of every rule.
        nodes: before and after.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)
    nodes: list[int] = field(default_factory=lambda: [0, 0])


def in_runtime(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs in ONNX Runtime with its own optimisations off."""
    named = {v.name: tensor for v, tensor in zip(graph.inputs, inputs, strict=True)}
    return [torch.from_numpy(np.array(array)) for array in OrtSession(to_onnx(graph), optimize=False).run(named)]


def masked(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """`got`, with what is wanted where that is no finite number: an overflow may come out better than it was."""
    if any(g.shape != w.shape for g, w in zip(got, want, strict=True)):
        return list(got)
    return [torch.where(w.isfinite(), g, w) if w.is_floating_point() else g for g, w in zip(got, want, strict=True)]


def judge(seed: int, steps: int, pipeline: str, tally: Tally) -> str:
    """One graph; returns what is wrong with it, or nothing."""
    before = Grower(seed, steps).d.graph
    if not before.outputs:
        return ""
    inputs = example_inputs(before, seed, {"n": 1 + seed % 3})
    try:
        want = in_runtime(before, inputs)
    except GraphoptError:
        tally.verdicts["refused"] += 1
        return ""
    after = before.clone()
    report = run_pipeline(after, pipeline, Context(after), [Verify()])
    for entry in report.passes:
        tally.hits.update(entry.counts)
    tally.nodes[0] += len(list(before.walk()))
    tally.nodes[1] += len(list(after.walk()))
    if "opset=" not in pipeline and possible_opsets(after, None)[0] > possible_opsets(before, None)[0]:
        return "the opset was raised"
    got = in_runtime(after, inputs)
    if after.output_names != before.output_names:
        return "other output names"
    found = compare(masked(got, want), want)
    if found.within(TOLERANCE):
        tally.verdicts["right"] += 1
        return ""
    if found.shapes_equal and _agrees_in_double_precision(seed, steps, pipeline):
        tally.verdicts["rounded"] += 1
        return ""
    return str(found)


def _agrees_in_double_precision(seed: int, steps: int, pipeline: str) -> bool:
    before = Grower(seed, steps).d.graph
    if not in_precision(before, DType.FLOAT64, casts=True):
        return False
    after = before.clone()
    run_pipeline(after, pipeline, Context(after), [Verify()])
    inputs = example_inputs(before, seed, {"n": 1 + seed % 3})
    want = run(before, inputs)
    found = compare(masked(run(after, inputs), want), want)
    return found.within(DOUBLE_TOLERANCE) or (found.shapes_equal and found.max_abs < DOUBLE_NOISE)


def fuzz(first: int, count: int, steps: int, pipeline: str) -> Tally:
    """Graphs with the seeds from `first` on."""
    tally = Tally()
    for seed in range(first, first + count):
        try:
            problem = judge(seed, 3 + seed % steps, pipeline, tally)
        except Exception as error:  # whatever goes wrong, the seed is what counts
            problem = f"{type(error).__name__}: {error} at {traceback.extract_tb(error.__traceback__)[-1]}"
        if problem:
            tally.verdicts["wrong"] += 1
            tally.wrong.append((seed, problem))
            print(f"seed {seed}: {problem}", flush=True)
    return tally


def show(seed: int, steps: int, pipeline: str) -> None:
    """Prints a graph before and after."""
    graph = Grower(seed, 3 + seed % steps).d.graph
    print(graph)
    run_pipeline(graph, pipeline, Context(graph), [Verify()])
    print(graph)


def main() -> None:
    """Command line of the fuzzer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1, help="of the first graph")
    parser.add_argument("--steps", type=int, default=25, help="most operators and motifs in a graph")
    parser.add_argument("--pipeline", default="simplify,fuse{opset=24},simplify")
    parser.add_argument("--show", action="store_true", help="print the graph of --seed, before and after")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.show:
        show(arguments.seed, arguments.steps, arguments.pipeline)
        return
    started = time.perf_counter()
    tally = fuzz(arguments.seed, arguments.count, arguments.steps, arguments.pipeline)
    print(f"{arguments.count} graphs in {time.perf_counter() - started:.0f} s: {dict(tally.verdicts)}")
    print(f"nodes: {tally.nodes[0]} before, {tally.nodes[1]} after")
    print("hits: " + ", ".join(f"{rule} {count}" for rule, count in sorted(tally.hits.items()) if count))


if __name__ == "__main__":
    main()
