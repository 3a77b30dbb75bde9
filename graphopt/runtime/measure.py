"""What a model costs to run: time, size, modelled energy; and how good it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from graphopt.analysis.cost import UNIT, Cost, sample_sizes
from graphopt.analysis.shapes import propagate
from graphopt.backends import to_onnx, to_torch
from graphopt.errors import DataError
from graphopt.ir import Graph
from graphopt.runtime.calls import call_flat
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.timing import medians

Runtime: TypeAlias = Literal["ort", "torch"]

#: Picojoules of a multiply-accumulate in float32 and int8 and of a byte from memory: Horowitz, "Computing's energy
#: problem", ISSCC 2014, figure 1.1.9 (45 nm; DRAM at 1.3 nJ to 2.6 nJ for 8 bytes).
_FLOAT_MAC, _INT8_MAC, _BYTE = 4.6, 0.3, 160.0


@dataclass(frozen=True)
class Measured:
    """Figures of one model.

    Attributes:
        seconds: median time of a run.
        macs: multiply-accumulates per sample.
        weight_bytes: of the weights as stored.
        millijoules: modelled energy per sample: arithmetic, and weights read from memory once.
        accuracy: part of the labels that the first output has right; ``None`` without labels.
        sqnr_db: signal to noise ratio of the outputs against those of the first model.
    """

    seconds: float
    macs: int
    weight_bytes: int
    millijoules: float
    accuracy: float | None
    sqnr_db: float


def energy(graph: Graph, sizes: Mapping[str, int] = UNIT) -> float:
    """Modelled energy of one sample in millijoules: arithmetic by its width, and every weight read from memory once.

    Operators on integers, or behind DequantizeLinear for both factors, count as 8-bit arithmetic.

    Args:
        graph: the graph, its shapes known.
        sizes: sizes of named dimensions; the others count as 1.
    """
    cost = Cost(graph, sizes)
    total = cost.weight_bytes * _BYTE
    for each in cost.nodes:
        total += (each.macs or 0) * (_INT8_MAC if _is_integer(each.node.inputs) else _FLOAT_MAC)
    return total * 1e-9


def _is_integer(inputs: Sequence[Any]) -> bool:
    factors = [value for value in inputs[:2] if value is not None]
    return all(
        value.dtype.is_integer or (value.producer is not None and value.producer.op == "DequantizeLinear")
        for value in factors
    )


def measure(
    graphs: Sequence[Graph],
    inputs: Sequence[torch.Tensor],
    *,
    runtime: Runtime = "ort",
    threads: int = 1,
    runs: int = 20,
    labelled: Iterable[tuple[Sequence[torch.Tensor], torch.Tensor]] = (),
) -> list[Measured]:
    """Measures models beside one another: they take turns, so that load on the machine hits all of them alike.

    Args:
        graphs: the models; signal to noise ratios are against the first one.
        inputs: what they are run on, in the order of the graphs' inputs.
        runtime: "ort" (ONNX Runtime on the CPU) or "torch" (the emitted module, eagerly).
        threads: that a run may use.
        runs: timed runs of each, after three untimed ones.
        labelled: batches of inputs and labels for the accuracy.

    Raises:
        DataError: a model cannot be run on the inputs.
    """
    batches = list(labelled)
    for graph in graphs:
        propagate(graph)  # a file need not tell the shapes that costs follow from
    calls = {str(number): _call(graph, runtime, threads, inputs) for number, graph in enumerate(graphs)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads if runtime == "torch" else before)
    try:
        seconds = medians(calls, repeats=runs)
    finally:
        torch.set_num_threads(before)
    results = [run(graph, inputs) for graph in graphs]
    found = []
    for number, graph in enumerate(graphs):
        sizes = sample_sizes(graph.inputs, inputs)
        cost = Cost(graph, sizes)
        found.append(
            Measured(
                seconds[str(number)], cost.macs, cost.weight_bytes, energy(graph, sizes),
                accuracy(graph, batches) if batches else None, compare(results[number], results[0]).sqnr,
            )
        )  # fmt: skip
    return found


def _call(graph: Graph, runtime: Runtime, threads: int, inputs: Sequence[torch.Tensor]) -> Any:
    if runtime == "ort":
        session = OrtSession(to_onnx(graph), threads=threads)
        arrays = [tensor.numpy() for tensor in inputs]
        return lambda: session.run(arrays)
    module = to_torch(graph).eval()
    return torch.no_grad()(lambda: call_flat(module, graph, inputs))


def accuracy(graph: Graph, batches: Iterable[tuple[Sequence[torch.Tensor], torch.Tensor]]) -> float:
    """Part of the labels that the first output's largest score has right, from 0 to 1.

    Raises:
        DataError: the first output holds no scores for the labels.
    """
    hits = count = 0
    for inputs, labels in batches:
        scores = run(graph, inputs)[0]
        if scores.dim() < 2 or scores.shape[0] != labels.shape[0]:
            raise DataError(
                f"the first output is {list(scores.shape)}, the labels are {list(labels.shape)}", where=graph.name,
                hint="accuracy wants scores [rows, classes ...] for labels [rows ...]",
            )  # fmt: skip
        hits += int((scores.argmax(1) == labels).sum())
        count += labels.numel()
    return hits / max(count, 1)
