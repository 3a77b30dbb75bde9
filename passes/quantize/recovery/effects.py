"""What each quantized node does to the outputs: quantized alone, and left out of the quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from graphopt.ir import Graph, Node
from graphopt.ops import record_of
from graphopt.passes.quantize.calibration import run_float
from graphopt.pipeline.context import Progress, no_progress

#: Inputs of a graph, several times.
Samples: TypeAlias = Sequence[Sequence[torch.Tensor]]
#: Squared errors and squares of outputs, summed.
Powers: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Effect:
    """What the quantization of one node does.

    Attributes:
        node: a node that reads quantized numbers.
        alone: noise of the graph's outputs, as a part of their power, with only what this node reads and gives
            quantized.
        without: the same with all but that quantized.
    """

    node: Node
    alone: float
    without: float


def quantized_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes that read what a Q/DQ pair gives, in topological order."""
    for node in graph.nodes:
        if node.op not in ("QuantizeLinear", "DequantizeLinear") and any(True for _ in _pairs_read(node)):
            yield node


def _pairs_read(node: Node) -> Iterator[Node]:
    """The Q and DQ nodes between `node` and the floats that it would read without them."""
    for value in node.inputs:
        while value is not None and value.producer is not None and value.producer.op == "Transpose":
            value = value.producer.operand(0)  # a weight's
        dequantize = value.producer if value is not None else None
        if dequantize is None or dequantize.op != "DequantizeLinear" or dequantize.domain:
            continue
        quantize = dequantize.operand(0).producer
        if quantize is not None and quantize.op == "QuantizeLinear":
            yield from (quantize, dequantize)


def _pairs_given(node: Node) -> Iterator[Node]:
    """The Q and DQ nodes behind `node` and the activation after it, which its kernel computes with it."""
    value = node.outputs[0]
    while len(value.users) == 1 and isinstance(value.users[0], Node) and _is_absorbed(value.users[0]):
        value = value.users[0].output
    for user in value.users:
        if isinstance(user, Node) and user.op == "QuantizeLinear" and not user.domain:
            yield user
            yield from (reader for reader in user.output.users if isinstance(reader, Node))


def _is_absorbed(node: Node) -> bool:
    record = record_of(node)
    return record is not None and record.elementwise and all(v is None or v.is_constant for v in node.inputs[1:])


def output_noise(graph: Graph, samples: Iterable[Sequence[torch.Tensor]]) -> float:
    """Noise of the outputs that all pairs make together, as a part of the outputs' power."""
    everything = _quantizers(graph)
    return noise_ratio(_powers(graph, inputs, run_float(graph, inputs), everything) for inputs in samples)


def effects(graph: Graph, samples: Samples, progress: Progress = no_progress) -> list[Effect]:
    """The effect of every quantized node, in topological order; two runs of the graph for each and sample.

    Args:
        graph: a graph with Q/DQ pairs, weights float behind theirs.
        samples: inputs of the graph.
        progress: shows that work goes on.
    """
    noise, everything = _noise_of(graph, samples), _quantizers(graph)
    return [Effect(node, noise(own), noise(everything - own)) for node, own in _weighed(graph, progress)]


def noise_alone(graph: Graph, samples: Samples, progress: Progress = no_progress) -> dict[Node, float]:
    """What `Effect` calls ``alone`` for every quantized node, with half of the runs that all effects take."""
    noise = _noise_of(graph, samples)
    return {node: noise(own) for node, own in _weighed(graph, progress)}


def _noise_of(graph: Graph, samples: Samples) -> Callable[[set[Node]], float]:
    """Noise of the outputs, as a part of their power, with only the given Q and DQ nodes at work."""
    wanted = [run_float(graph, inputs) for inputs in samples]

    def noise(keep: set[Node]) -> float:
        return noise_ratio(_powers(graph, x, exact, keep) for x, exact in zip(samples, wanted, strict=True))

    return noise


def _weighed(graph: Graph, progress: Progress) -> Iterator[tuple[Node, set[Node]]]:
    """The quantized nodes, each with the Q and DQ nodes of what it reads and gives."""
    nodes = list(quantized_nodes(graph))
    for node in progress(nodes, "weighing layers", len(nodes)):
        yield node, {*_pairs_read(node), *_pairs_given(node)}


def _quantizers(graph: Graph) -> set[Node]:
    return {each for node in quantized_nodes(graph) for each in _pairs_read(node)}


def _powers(graph: Graph, inputs: Sequence[torch.Tensor], exact: Sequence[Any], keep: set[Node]) -> Powers:
    return powers(run_float(graph, inputs, keep=keep), exact)


def powers(results: Sequence[Any], exact: Sequence[Any]) -> Powers:
    """Squared errors of float outputs, summed, and their squares, summed."""
    noise = signal = 0.0
    for got, want in zip(results, exact, strict=True):
        if isinstance(want, torch.Tensor) and want.is_floating_point():
            noise += float((got.double() - want.double()).square().sum())
            signal += float(want.double().square().sum())
    return noise, signal


def noise_ratio(found: Iterable[Powers]) -> float:
    """Noise as a part of the outputs' power, over several samples."""
    noise, signal = (sum(each) for each in zip(*found, strict=True))
    if signal == 0:
        return 0.0 if noise == 0 else float("inf")
    return float(noise / signal)
