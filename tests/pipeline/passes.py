"""Passes and a graph for the tests of the pipeline."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.analysis import propagate
from graphopt.errors import DataError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.pipeline import Changes, Contract, Pass, register, register_alias


def small_graph(batch="batch") -> Graph:
    """``y = Relu(x @ w) @ v`` with x [batch, 4]."""
    generator = torch.Generator().manual_seed(0)
    graph = Graph("small")
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (batch, 4)))
    w = graph.add_constant(torch.randn(4, 8, generator=generator), "w")
    v = graph.add_constant(torch.randn(8, 3, generator=generator), "v")
    graph.add_output(graph.add("MatMul", graph.add("Relu", graph.add("MatMul", x, w)), v), "y")
    propagate(graph)
    return graph


@register("test-double-negation")
@dataclass(frozen=True)
class DoubleNegation(Pass):
    """Insert two negations before every output, which changes no result.

    Attributes:
        count: how many pairs.
        places: where
            to insert them.
    """

    count: int = 1
    places: tuple[str, ...] = ()

    def run(self, graph, context):
        for _ in range(self.count):
            for index, value in enumerate(graph.outputs):
                graph.set_input(index, graph.add("Neg", graph.add("Neg", value)))
        return Changes(self.count > 0, counts={"pairs": self.count}, notes=("as before",))


@register("test-scale")
@dataclass(frozen=True)
class Scale(Pass):
    """Multiply the outputs and claim that nothing changed."""

    factor: float = 1.0
    silent: bool = False

    def run(self, graph, context):
        for index, value in enumerate(graph.outputs):
            graph.set_input(index, graph.add("Mul", value, graph.add_constant(torch.tensor(self.factor))))
        return not self.silent


@register("test-approximate-scale")
@dataclass(frozen=True)
class ApproximateScale(Scale):
    """The same, and honest about it."""

    contract: ClassVar[Contract] = Contract.APPROXIMATE


@register("test-drop-channel")
@dataclass(frozen=True)
class DropChannel(Pass):
    """Remove the last hidden channel, and report what was kept (or, with a lie, something else)."""

    contract: ClassVar[Contract] = Contract.MASKED
    lie: bool = False

    def run(self, graph, context):
        w, v = graph.constants
        w.data, v.data = w.data[:, :-1], v.data[:-1]
        w.type, v.type = TensorType.of(w.data), TensorType.of(v.data)
        size = w.data.shape[1]
        kept = list(range(1, size + 1)) if self.lie else list(range(size))
        return Changes(True, kept={"w": {1: kept}, "v": {0: kept}})


@register("test-crash")
@dataclass(frozen=True)
class Crash(Pass):
    """Edit the graph and then fail.

    Attributes:
        error: what to raise.
    """

    error: str = "foreign"

    def run(self, graph, context):
        graph.add_constant(torch.zeros(3), "left behind")
        graph.set_input(0, graph.add("Exp", graph.outputs[0]))
        graph.inputs[0].name = "renamed"
        if self.error == "data":
            raise DataError("not these samples", hint="others")
        raise RuntimeError("what a bug")


@register("test-break")
@dataclass(frozen=True)
class Break(Pass):
    """Leave a malformed graph behind: a node reads what comes after it."""

    def run(self, graph, context):
        late = graph.append(Node("Neg", [graph.inputs[0]]))
        graph.prepend(Node("Neg", [late.output]))
        return True


@register("test-bad-shape")
@dataclass(frozen=True)
class BadShape(Pass):
    """Leave a product whose sizes do not fit."""

    def run(self, graph, context):
        graph.set_input(0, graph.add("MatMul", graph.outputs[0], graph.add_constant(torch.zeros(7, 7))))
        return True


@register("test-only-conv")
@dataclass(frozen=True)
class OnlyConv(Pass):
    """Needs a convolution."""

    looks_for: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def run(self, graph, context):
        raise AssertionError("there is no convolution")


@register("test-needs-data")
@dataclass(frozen=True)
class NeedsData(Pass):
    """Needs data."""

    needs: ClassVar[frozenset[str]] = frozenset({"data"})

    def run(self, graph, context):
        context.data.first()
        return False


@register("test-once")
@dataclass(frozen=True)
class Once(Pass):
    """Change something as long as there are fewer than two negations."""

    def run(self, graph, context):
        if sum(node.op == "Neg" for node in graph.nodes) >= 2:
            return False
        graph.set_input(0, graph.add("Neg", graph.outputs[0]))
        return True


register_alias("test-alias", "test-double-negation{count=2},test-scale", doc="Both.")
register_alias("test-repeat", "test-once,test-only-conv", repeat=5)
register_alias("test-nested", "test-alias{places=[a]},test-only-conv")
