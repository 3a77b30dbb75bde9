"""Small models for the tests of quantization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch

from graphopt.analysis import propagate
from graphopt.frontends import load
from graphopt.ir import Graph
from graphopt.passes.quantize import Calibrate, InsertQDQ, PackWeights
from graphopt.pipeline import Context
from graphopt.runtime.samples import example_inputs
from tests.onnx_models import info, model, node, tensor

SHAPE = (1, 8, 12, 12)


class Maker:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self, shape: Sequence[Any] = SHAPE) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shape = shape

    def constant(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(tensor(name, array))
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def op(self, kind: str, inputs: str, outputs: str = "", **attributes: Any) -> str:
        outputs = outputs or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(node(kind, inputs, outputs, name=f"n_{outputs.split()[0]}", **attributes))
        return outputs

    def conv(
        self, x: str, channels: int = 8, out: int = 8, kernel: int = 3, bias: bool = True, **attributes: Any
    ) -> str:
        group = attributes.get("group", 1)
        weight = self.random(out, channels // group, kernel, kernel, scale=(channels * kernel**2) ** -0.5)
        names = f"{x} {weight}" + (f" {self.random(out)}" if bias else "")
        return self.op("Conv", names, pads=[kernel // 2] * 4, **attributes)

    def gemm(self, x: str, k: int, n: int, trans: int = 1) -> str:
        weight = self.random(*((n, k) if trans else (k, n)), scale=k**-0.5)
        return self.op("Gemm", f"{x} {weight} {self.random(n)}", transB=trans)

    def model(self, *outputs: str) -> onnx.ModelProto:
        return model(self.nodes, [info("x", self.shape)], outputs, self.weights)

    def graph(self, *outputs: str) -> Graph:
        graph = load(self.model(*outputs))
        propagate(graph)
        return graph


def samples(graph: Graph, count: int = 8, first: int = 0) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(example_inputs(graph, seed=first + i)) for i in range(count)]


def quantize(graph: Graph, *, pack: bool = True, everything: bool = True, **options: Any) -> Graph:
    """Runs the passes on the graph, in place."""
    context = Context(graph, samples(graph))
    InsertQDQ(everything=everything, **options).run(graph, context)
    propagate(graph)
    Calibrate().run(graph, context)
    if pack:
        PackWeights().run(graph, context)
    propagate(graph)
    graph.verify()
    return graph


def quantized(graph: Graph) -> set[str]:
    """Names of the values behind QuantizeLinear."""
    return {n.operand(0).name for n in graph.nodes if n.op == "QuantizeLinear"}
