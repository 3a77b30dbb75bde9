"""Differential fuzzing: random graphs through ``simplify,fuse``; ONNX Runtime before and after must agree.

Run by hand: ``python -m tests.bench.fuzz_simplify --count 5000``. A disagreement beyond rounding is looked at again in
double precision with torch, where only what is wrong differs, and held against how far rounding errors alone carry
the results (half precision, sines of large numbers); its seed is printed, and ``--seed N --show`` shows it.

A second source of graphs is NNSmith (Liu et al. 2023, arXiv:2207.13066): ``pip install --target DIR nnsmith``, take
numpy out of DIR again, and give ``--nnsmith DIR``. Its torch modules are written by torch.onnx.export.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TypeAlias

import numpy as np
import torch

from graphopt.analysis import propagate
from graphopt.backends.onnx_model import to_onnx
from graphopt.backends.onnx_opset import possible_opsets
from graphopt.errors import CaptureError, GraphoptError
from graphopt.frontends import load
from graphopt.ir import DType, Graph
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import Verify
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.samples import example_inputs
from tests.bench.fuzz_graphs import Grower
from tests.passes.rule_cases import in_precision
from tests.rounding import is_near, spreads

# Constants in files are float32: what they stand for is off by 1e-8. Tails of activations cancel to next to nothing.
TOLERANCE, DOUBLE_TOLERANCE, DOUBLE_NOISE = 1e-5, 1e-6, 1e-10

#: Makes the graph of a seed. Raises GraphoptError where none can be made.
Source: TypeAlias = Callable[[int], Graph]


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


def grown(steps: int) -> Source:
    """Graphs of our own, of 3 to `steps` + 2 operators and motifs."""
    return lambda seed: Grower(seed, 3 + seed % steps).d.graph


def nnsmith(folder: str, steps: int) -> Source:
    """Graphs of NNSmith's, of up to `steps` operators, as torch's exporter writes them."""
    sys.path.append(folder)
    made = import_module("nnsmith.materialize").Model.init("torch")
    model_gen = import_module("nnsmith.graph_gen").model_gen

    def source(seed: int) -> Graph:
        torch.manual_seed(seed)  # of the weights
        search = {"method": "symbolic-cinit", "max_nodes": 3 + seed % steps, "timeout_ms": 10000}
        model = made.from_gir(model_gen(opset=made.operators(), seed=seed, **search).make_concrete())
        module = model.torch_model.eval()
        inputs, file = module.get_random_inps(), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about every constant
            try:
                torch.onnx.export(module, tuple(inputs.values()), file, input_names=list(inputs), dynamo=False)
            except Exception as error:  # whatever the exporter raises: complex numbers, operators that it lacks
                raise CaptureError(f"torch.onnx.export: {error}") from error
        graph = load(file.getvalue())
        propagate(graph)
        return graph

    return source


def judge(seed: int, source: Source, pipeline: str, tally: Tally) -> str:
    """One graph; returns what is wrong with it, or nothing."""
    try:
        before = source(seed)
    except GraphoptError:
        tally.verdicts["not made"] += 1
        return ""
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
    if found.shapes_equal and _agrees_in_double_precision(seed, source, pipeline):
        tally.verdicts["rounded"] += 1
        return ""
    if found.shapes_equal and all(map(is_near, masked(got, want), want, spreads(before, inputs, seed))):
        tally.verdicts["ill-conditioned"] += 1
        return ""
    return str(found)


def _agrees_in_double_precision(seed: int, source: Source, pipeline: str) -> bool:
    before = source(seed)
    if not in_precision(before, DType.FLOAT64, casts=True):
        return False
    after = before.clone()
    run_pipeline(after, pipeline, Context(after), [Verify()])
    inputs = example_inputs(before, seed, {"n": 1 + seed % 3})
    want = run(before, inputs)
    found = compare(masked(run(after, inputs), want), want)
    return found.within(DOUBLE_TOLERANCE) or (found.shapes_equal and found.max_abs < DOUBLE_NOISE)


def fuzz(first: int, count: int, source: Source, pipeline: str) -> Tally:
    """Graphs with the seeds from `first` on."""
    tally = Tally()
    for seed in range(first, first + count):
        try:
            problem = judge(seed, source, pipeline, tally)
        except Exception as error:  # whatever goes wrong, the seed is what counts
            problem = f"{type(error).__name__}: {error} at {traceback.extract_tb(error.__traceback__)[-1]}"
        if problem:
            tally.verdicts["wrong"] += 1
            tally.wrong.append((seed, problem))
            print(f"seed {seed}: {problem}", flush=True)
    return tally


def show(seed: int, source: Source, pipeline: str) -> None:
    """Prints a graph before and after."""
    graph = source(seed)
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
    parser.add_argument("--nnsmith", metavar="DIR", help="take graphs from NNSmith, which is installed in DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = nnsmith(arguments.nnsmith, arguments.steps) if arguments.nnsmith else grown(arguments.steps)
    if arguments.show:
        show(arguments.seed, source, arguments.pipeline)
        return
    started = time.perf_counter()
    tally = fuzz(arguments.seed, arguments.count, source, arguments.pipeline)
    print(f"{arguments.count} graphs in {time.perf_counter() - started:.0f} s: {dict(tally.verdicts)}")
    print(f"nodes: {tally.nodes[0]} before, {tally.nodes[1]} after")
    print("hits: " + ", ".join(f"{rule} {count}" for rule, count in sorted(tally.hits.items()) if count))


if __name__ == "__main__":
    main()
