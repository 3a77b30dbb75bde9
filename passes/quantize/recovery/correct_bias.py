"""correct-bias: the mean error that quantization gives each channel, taken out of the biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.passes.quantize.calibration import run_float
from graphopt.passes.quantize.recovery.expectation import expectations, mean_error
from graphopt.passes.quantize.recovery.layers import Layer, quantized_layers
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.recovery.statistics import forget
from graphopt.pipeline import Batch, Changes, Context, Contract, Pass, register
from graphopt.runtime import run


@register("correct-bias")
@dataclass(frozen=True)
class CorrectBias(Pass):
    """Shift biases so that every channel of a quantized layer has the mean that it has in float.

    "empirical" finds the mean errors on the run's data, layers in order, each behind the corrected ones before it
    (Nagel et al. 2019, arXiv:1906.04721, appendix D). "analytic" needs no data: the mean error of a layer is what the
    error of its weights makes of the mean input (section 4.2.1), which follows from the batch normalizations before it,
    those that are still there and those that `keep-statistics` noted before they were folded. It leaves layers alone
    whose inputs these tell nothing about, and knows nothing of errors of activations, which the other corrects as well.
    Runs between `calibrate` and `pack-weights`, while biases are float.

    Attributes:
        method: how mean errors are found.
        batches: batches to read at most; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    method: Literal["empirical", "analytic"] = "empirical"
    batches: int = 8

    def __post_init__(self) -> None:
        check_options(self, ("batches", self.batches >= 0, "0 or more"))

    def run(self, graph: Graph, context: Context) -> Changes:
        sites = {site.result: site for site in map(bias_site, quantized_layers(graph)) if site is not None}
        if not sites:
            return Changes(False, notes=("no quantized layer has a place for a bias",))
        if self.method == "analytic":
            return _analytic(graph, sites)
        count = 0
        sums = {value: torch.zeros(site.channels, dtype=torch.float64) for value, site in sites.items()}
        for batch in context.progress(context.data, "correcting biases", self.batches or None):
            if self.batches and count == self.batches:
                break
            for value, error in _errors(graph, batch, sites).items():
                sums[value] += error
            count += 1
        for value, site in sites.items():
            site.add(graph, -sums[value] / count)
        return Changes(True, counts={"biases": len(sites)}, notes=(f"{len(sites)} biases from {count} batches",))


@dataclass(frozen=True)
class BiasSite:
    """Where the bias of a layer is.

    Attributes:
        layer: the layer.
        node: the node that adds the bias.
        index: input of it that the bias is.
        axis: dimension of the channels in the result.
    """

    layer: Layer
    node: Node
    index: int
    axis: int

    @property
    def result(self) -> Value:
        return self.node.output

    @property
    def channels(self) -> int:
        return self.layer.linear.channels_out

    def add(self, graph: Graph, shift: torch.Tensor) -> None:
        """Adds a number to each channel: [C], float64."""
        bias = self.node.input(self.index)
        scale = float(self.node.attributes.get("beta", 1.0))
        old = torch.zeros(()) if bias is None or bias.data is None else bias.data
        new = (old.detach().double() + shift / scale).to(self.result.dtype.torch)
        if bias is not None and len(bias.uses) == 1:
            bias.data = new
            return
        inputs = [self.node.input(i) for i in range(max(len(self.node.inputs), self.index + 1))]
        inputs[self.index] = graph.add_constant(new, f"{self.layer.weight.name}_bias")
        self.node.set_inputs(inputs)


def bias_site(layer: Layer) -> BiasSite | None:
    """Where a layer has or can have a bias; ``None`` for a MatMul to whose result no vector of channels is added."""
    node = layer.node
    if node.attributes.get("beta") == 0:
        return None
    if node.op != "MatMul":
        return BiasSite(layer, node, 2, layer.linear.axis)
    users = node.output.users
    if len(users) != 1 or node.output.is_output or users[0].op != "Add" or users[0].domain:
        return None
    index = 1 if users[0].input(0) is node.output else 0
    added = users[0].operand(index)
    if added.data is None or not added.is_constant or added.data.numel() != layer.linear.channels_out:
        return None
    return BiasSite(layer, users[0], index, layer.linear.axis) if added.shape and added.shape[-1] != 1 else None


def _analytic(graph: Graph, sites: dict[Value, BiasSite]) -> Changes:
    """Takes out the mean errors that follow from batch normalizations, and the notes of these."""
    known = expectations(graph)
    found = {site: error for site in sites.values() if (error := mean_error(site.layer, known)) is not None}
    for site, error in found.items():
        site.add(graph, -error)
    noted = forget(graph)
    notes = [f"{len(found)} biases from the statistics of normalizations"]
    if left := len(sites) - len(found):
        notes.append(f"{left} layers were left alone: nothing is known of what they read")
    return Changes(bool(found) or noted > 0, counts={"biases": len(found)}, notes=tuple(notes))


def _errors(graph: Graph, batch: Batch, sites: dict[Value, BiasSite]) -> dict[Value, torch.Tensor]:
    """Mean errors of each site's channels on a batch, those of the sites before it already taken out."""
    wanted: dict[Value, torch.Tensor] = {}
    found: dict[Value, torch.Tensor] = {}

    def keep(value: Value, tensor: torch.Tensor) -> None:
        if value in sites:
            wanted[value] = _means(tensor, sites[value].axis)

    def correct(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        value = node.outputs[0]
        if value not in sites:
            return results
        axis = sites[value].axis
        found[value] = _means(results[0], axis) - wanted[value]
        shape = [-1 if d == axis else 1 for d in range(results[0].dim())]
        return (results[0] - found[value].to(results[0].dtype).reshape(shape), *results[1:])

    run_float(graph, batch.inputs, keep)
    run(graph, batch.inputs, hook=correct)
    return found


def _means(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    rest = [d for d in range(tensor.dim()) if d != axis]
    return tensor.double().mean(rest) if rest else tensor.double()
