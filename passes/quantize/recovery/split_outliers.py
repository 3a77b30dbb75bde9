"""split-outliers: input channels with outlying activations multiplied in a float product of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.ops.builder import Builder
from graphopt.passes.quantize.placement import FLOAT
from graphopt.passes.quantize.recovery.channels import ChannelGroup, axis_in
from graphopt.passes.quantize.recovery.equalize import activation_ranges
from graphopt.passes.quantize.recovery.layers import Layer, layers
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.recovery.split_inputs import dim_in, is_dense, replace_data
from graphopt.pipeline import Changes, Context, Contract, Pass, register

#: What the names of the float parts end with.
_SUFFIX = ".outliers"


@register("split-outliers")
@dataclass(frozen=True)
class SplitOutliers(Pass):
    """Compute channels whose activations lie far out in a float product beside the one that is to be quantized.

    ``x W = x[:, rest] W[rest] + x[:, outliers] W[outliers]``: the range of what is quantized is then that of the rest
    (LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339, section 3.2). Graphs being static, the channels are those that
    lie far out on the run's data. The paper's threshold is 6.0 among hidden states of size 1; here it is a multiple of
    the median channel's range. Runs before `insert-qdq`, which leaves the float products alone when it is in the same
    pipeline; elsewhere it is to be given their names, which end with ".outliers" (``ignore=*.outliers``).

    Attributes:
        above: channels with a range of more than this many times the median one are outliers.
        most: part of a layer's channels that are taken at most, the furthest ones.
        batches: batches to read at most; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.EXACT
    needs: ClassVar[frozenset[str]] = frozenset({"data"})

    above: float = 6.0
    most: float = 0.1
    batches: int = 8

    def __post_init__(self) -> None:
        check_options(
            self,
            ("above", self.above >= 1, "1 or more"),
            ("most", 0 < self.most < 1, "more than 0 and less than 1"),
            ("batches", self.batches >= 0, "0 or more"),
        )

    def run(self, graph: Graph, context: Context) -> Changes:
        found = [layer for layer in layers(graph) if is_dense(layer) and layer.pair is None]
        groups = [ChannelGroup(layer.linear.channels_in, readers=[layer]) for layer in found]
        for layer, group in zip(found, groups, strict=True):
            group.values[layer.node.operand(0)] = axis_in(layer)
        ranges = activation_ranges(graph, groups, context, self.batches)
        chosen = {layer: self._outliers(ranges[layer.node.operand(0)]) for layer in found}
        split = {layer: channels for layer, channels in chosen.items() if len(channels)}
        if not split:
            return Changes(False, notes=(f"no channel lies out by more than {self.above:g} times",))
        parts: dict[tuple[Value, bool], Value] = {}
        details = {_name(layer): channels.tolist() for layer, channels in split.items()}
        for layer, channels in split.items():
            name = _split(graph, layer, channels, parts, self.name)
            context.options.setdefault(FLOAT, set()).add(name)
        count = sum(len(channels) for channels in split.values())
        note = f"{count} channels of {len(split)} of {len(found)} layers go through float products, named *{_SUFFIX}"
        return Changes(True, counts={"layers": len(split), "channels": count}, notes=(note,), details=details)

    def _outliers(self, ranges: torch.Tensor) -> torch.Tensor:
        """The channels that lie far out, in ascending order, given the ranges [C] of all."""
        live = ranges[ranges > 0]
        if not len(live):
            return torch.empty(0, dtype=torch.long)
        furthest = ranges.argsort(descending=True, stable=True)[: int(self.most * len(ranges))]
        return furthest[ranges[furthest] > self.above * live.median()].sort().values


def _name(layer: Layer) -> str:
    return layer.node.name or layer.node.output.name


def _split(graph: Graph, layer: Layer, channels: torch.Tensor, parts: dict[tuple[Value, bool], Value], by: str) -> str:
    """Takes channels of a layer into a product beside it, and returns its name.

    `parts` has what was gathered from the same inputs before.
    """
    node, value, weight, dim = layer.node, layer.node.operand(0), layer.weight, dim_in(layer)
    assert weight.data is not None, "weights of layers are constants"
    data, size = weight.data.detach(), layer.linear.channels_in
    rest = torch.tensor(sorted({*range(size)} - {*channels.tolist()}))
    op = Builder(graph, node, node.origin.touched_by(by))
    for key, index in (((value, False), rest), ((value, True), channels)):
        if key not in parts:
            parts[key] = op.Gather(value, index, axis=axis_in(layer))
    beside = graph.add_constant(data.index_select(dim, channels), f"{weight.name}{_SUFFIX}")
    factor = op.Transpose(beside, perm=(1, 0)) if layer.linear.view else beside
    product = op.like(node, parts[value, True], factor, *[None] * (len(node.inputs) - 2))
    assert product.producer is not None, "it was just made"
    product.producer.name = f"{_name(layer)}{_SUFFIX}"
    node.set_input(0, parts[value, False])
    replace_data(weight, data.index_select(dim, rest))
    _add(graph, node, product, by)
    return product.producer.name


def _add(graph: Graph, node: Node, product: Value, by: str) -> None:
    """Has all that read what `node` makes read the sum with `product`."""
    total = Builder(graph, node.next, node.origin.touched_by(by)).Add(node.output, product)
    node.output.replace_uses(total, lambda use: use.user is not total.producer)
