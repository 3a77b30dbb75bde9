"""Layers with constant weights: found, and replaced by a few smaller ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from graphopt.analysis.cost import UNIT, sized
from graphopt.ir import Graph, Node, Parameter, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.kernels import Window, attributes_of, windows
from graphopt.passes.substitute.factors import Plan, Stage
from graphopt.rewrite import replace as replace_values


@dataclass(frozen=True)
class Layer:
    """A convolution, Gemm or MatMul whose weight nothing else reads.

    Attributes:
        node: the operator.
        value: its constant weight, as stored.
        view: the Transpose through which it is read.
        sizes: sizes of named dimensions; the others count as 1.
    """

    node: Node
    value: Value
    view: Node | None = None
    sizes: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def is_convolution(self) -> bool:
        return self.node.op == "Conv"

    @property
    def group(self) -> int:
        return int(attribute(self.node, "group")) if self.is_convolution else 1

    @property
    def is_stored_by_output(self) -> bool:
        """Whether the first dimension of the weight is that of the outputs."""
        return self.is_convolution or self.view is not None or bool(self.node.attributes.get("transB"))

    @property
    def weight(self) -> torch.Tensor:
        """The weight in double precision: [out, in / group, *kernel]."""
        data: Any = self.value.data
        matrix: torch.Tensor = data.detach().to(torch.float64)
        return matrix if self.is_stored_by_output else matrix.t()

    @property
    def windows(self) -> list[Window] | None:
        """The windows of a convolution; ``None`` when they depend on the size of its input."""
        return windows(self.node, self.weight.shape[2:]) if self.is_convolution else []

    @property
    def label(self) -> str:
        """What people know it by."""
        return self.value.name or self.node.name or self.node.describe()

    def positions(self, done: Sequence[int]) -> float:
        """How often a stage is computed, per sample, after the spatial dimensions in `done` have been reduced.

        Dimensions that are not known count as 1 in the output.
        """
        if not self.is_convolution:
            shape = self.node.output.shape or ()
            return math.prod(sized(dim, self.sizes) or 1 for dim in shape[:-1])
        before, after = self.node.operand(0).shape or (), self.node.output.shape or ()
        total = 1.0
        for place, window in enumerate(self.windows or ()):
            out, into = sized(after[place + 2], self.sizes), sized(before[place + 2], self.sizes)
            size = out or 1
            total *= size if place in done else into or size * window.stride
        return total

    def macs(self, plans: Sequence[Plan]) -> float:
        """Multiply-accumulates of stages, per sample."""
        total, done = 0.0, set[int]()
        for plan in plans:
            done.update(plan.own)
            total += math.prod(plan.shape) * self.positions(sorted(done))
        return total

    def whole(self) -> Plan:
        """The size of the layer as it is."""
        shape = tuple(self.weight.shape)
        return Plan(shape, tuple(range(len(shape) - 2)))


def layers(graph: Graph, sizes: Mapping[str, int] = UNIT) -> Iterator[Layer]:
    """The layers of a graph, bodies included, in order; `sizes` are those of named dimensions."""
    for node in list(graph.walk()):
        if node.domain or node.op not in ("Conv", "Gemm", "MatMul") or not node.output.dtype.is_float:
            continue
        value, view = node.operand(1), None
        if value.producer is not None and value.producer.op == "Transpose" and node.op == "MatMul":
            view, rows = value.producer, value.producer.operand(0)
            value = rows if len(value.uses) == 1 and rows.rank == 2 else value
        if not value.is_constant or value.data is None or value.data.is_meta or len(value.uses) != 1:
            continue
        if node.op != "Conv" and value.rank != 2:
            continue
        if node.op == "Gemm" and (attribute(node, "transA") or value is node.operand(0)):
            continue
        yield Layer(node, value, view, sizes)


def put(layer: Layer, stages: Sequence[Stage], name: str, group: int = 1) -> None:
    """Puts smaller layers in the place of one; the last keeps its bias.

    In a module, layer ``path`` becomes ``path.0``, ``path.1`` and so on, as in an nn.Sequential.

    Args:
        layer: the layer.
        stages: first one first.
        name: of the pass.
        group: groups of every stage.
    """
    node, graph = layer.node, layer.node.graph
    assert graph is not None, "layers are linked"
    op = Builder(graph, node, node.origin.touched_by(name))
    x = node.operand(0)
    for number, stage in enumerate(stages):
        is_last = number == len(stages) - 1
        weight = _constant(op, layer, number, "weight", layer.value, stage.weight)
        bias = _bias(op, layer, number) if is_last else None
        op.in_module(f"{node.origin.module}.{number}".lstrip(".") if node.origin.module else "")
        x = _convolution(op, layer, stage, x, weight, bias, group) if layer.is_convolution else (
            _product(op, layer, x, weight, bias, is_last)
        )  # fmt: skip
    replace_values([node.output], [x], fresh=op.nodes[-1:], keep=lambda value: False)


def _convolution(
    op: Builder, layer: Layer, stage: Stage, x: Value, weight: Value, bias: Value | None, group: int
) -> Value:
    own = layer.windows
    assert own is not None, "layers whose windows are not known are left alone"
    kernel = stage.weight.shape[2:]
    found = list(stage.windows) or [
        replace(own[place], extent=extent) if place in stage.own else Window(extent)
        for place, extent in enumerate(kernel)
    ]
    made: Value = op.Conv(x, weight, bias, **attributes_of(found, group))
    return made


def _product(op: Builder, layer: Layer, x: Value, weight: Value, bias: Value | None, is_last: bool) -> Value:
    if layer.node.op == "MatMul":
        return op.MatMul(x, op.Transpose(weight, perm=(1, 0)) if layer.view is not None else weight)
    if is_last:
        return op.like(layer.node, x, weight, bias)
    return op.Gemm(x, weight, transB=layer.node.attributes.get("transB"))


def _bias(op: Builder, layer: Layer, number: int) -> Value | None:
    old = layer.node.input(2)
    if old is None or old.parameter is None or old.data is None or len(old.uses) != 1:
        return old
    return _constant(op, layer, number, "bias", old, old.data)


def _constant(op: Builder, layer: Layer, number: int, leaf: str, old: Value, data: torch.Tensor) -> Value:
    stored = data if data.dim() != 2 or leaf == "bias" or layer.is_stored_by_output else data.t()
    base = old.name.removesuffix(leaf).rstrip(".")
    name = f"{base}.{number}.{leaf}" if base else f"{number}.{leaf}"
    parameter: Parameter | None = None
    if old.parameter is not None:
        base = old.parameter.name.removesuffix(leaf).rstrip(".")
        parameter = replace(old.parameter, name=f"{base}.{number}.{leaf}".lstrip("."), aliases=())
    return op.constant(stored.to(old.dtype.torch).contiguous(), name=name, parameter=parameter, dtype=old.dtype)
