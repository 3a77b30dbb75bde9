"""equalize: ranges of channels evened out between the layers that make them and those that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from graphopt.ir import Graph, Value
from graphopt.passes.quantize.calibration import run_float
from graphopt.passes.quantize.recovery.channels import ChannelGroup, channel_groups
from graphopt.passes.quantize.recovery.layers import Layer
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.recovery.statistics import move
from graphopt.pipeline import Changes, Context, Contract, Pass, register

#: Sweeps over all groups at most: a layer between two groups answers to both.
_SWEEPS = 20
#: A sweep that moves no factor by more than this part ends it.
_SETTLED = 0.01
#: Factors stay within this of 1, so that no number leaves what float32 holds well.
_LARGEST = 1e4


@register("equalize")
@dataclass(frozen=True)
class Equalize(Pass):
    """Rescale channels so that those of one tensor have like ranges, which one scale for the tensor then serves well.

    Channels are divided where they are made and multiplied where they are read; the graph computes what it did. With
    "activations" each channel's factor is ``max|x|^strength / max|w|^(1 - strength)`` over the run's data (SmoothQuant,
    Xiao et al. 2022, arXiv:2211.10438, eq. 4); strength is 1 where every reader has a weight of its own for the
    channel (a depthwise convolution), which per-channel scales serve at any range. With "weights" it is
    ``sqrt(r1 / r2)`` of the ranges of the weights on either side, without data (cross-layer equalization, Nagel et al.
    2019, arXiv:1906.04721).

    Attributes:
        by: "activations" needs data, "weights" does not.
        strength: how much of the unevenness the weights take over, from 0 to 1.
        above: leaves tensors alone whose unevenness costs less than this factor of precision: ``max|x| max|w| /
            max|x w|``, the last over the channels. It is 1 where the largest channels meet the largest weights,
            and every doubling is a bit that the contributions to the result do not get.
        batches: batches to read at most; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.EXACT

    by: Literal["activations", "weights"] = "activations"
    strength: float = 0.5
    above: float = 1.0
    batches: int = 8

    def __post_init__(self) -> None:
        check_options(
            self,
            ("strength", 0 <= self.strength <= 1, "a number from 0 to 1"),
            ("above", self.above >= 1, "1 or more"),
            ("batches", self.batches >= 0, "0 or more"),
        )

    def run(self, graph: Graph, context: Context) -> Changes:
        groups = [group for group in channel_groups(graph) if group.makers or group.divided]
        if not groups:
            return Changes(False, notes=("no channels can be rescaled",))
        largest = self._by_weights(groups) if self.by == "weights" else self._by_activations(graph, groups, context)
        changed = sum(factor > 1 for factor in largest)
        if not changed:
            return Changes(False, notes=("all channels are even enough",))
        note = f"channels of {changed} tensors rescaled, by up to {max(largest):.3g}"
        return Changes(True, counts={"tensors": changed}, notes=(note,))

    def _by_activations(self, graph: Graph, groups: list[ChannelGroup], context: Context) -> list[float]:
        ranges = activation_ranges(graph, groups, context, self.batches)
        return [self._even_out(group, ranges) for group in groups]

    def _even_out(self, group: ChannelGroup, ranges: Mapping[Value, torch.Tensor]) -> float:
        activations = torch.stack([ranges[layer.node.operand(0)] for layer in group.readers]).amax(0)
        weights = torch.stack([_input_ranges(layer) for layer in group.readers]).amax(0)
        if _unevenness(activations, weights) < self.above:
            return 1.0
        if all(_reads_alone(layer) for layer in group.readers):
            return _apply(group, even(activations))
        return _apply(group, even(activations.pow(self.strength) / weights.pow(1 - self.strength)))

    def _by_weights(self, groups: list[ChannelGroup]) -> list[float]:
        """Sweeps until the ranges of weights on both sides of every group are even (paper, section 4.1)."""
        groups = [group for group in groups if group.makers and _unevenness(*_both_sides(group)) >= self.above]
        largest = [1.0] * len(groups)
        for _ in range(_SWEEPS):
            moved = []
            for number, group in enumerate(groups):
                made, read = _both_sides(group)
                moved.append(_apply(group, even((made / read).sqrt(), centred=False)))
                largest[number] *= moved[-1]
            if max(moved, default=1.0) <= 1 + _SETTLED:
                break
        return largest


def activation_ranges(
    graph: Graph, groups: list[ChannelGroup], context: Context, batches: int
) -> dict[Value, torch.Tensor]:
    """The largest absolute value of each channel, [C] in float64, of what the groups' readers read.

    Args:
        graph: the graph; Q/DQ pairs pass numbers through.
        groups: groups of channels.
        context: whose data is read.
        batches: how many batches at most; 0 for all.

    Raises:
        DataError: the run has no data.
    """
    dims = {layer.node.operand(0): group.values[layer.node.operand(0)] for group in groups for layer in group.readers}
    sizes = {layer.node.operand(0): group.size for group in groups for layer in group.readers}
    found = {value: torch.zeros(size, dtype=torch.float64) for value, size in sizes.items()}

    def see(value: Value, tensor: torch.Tensor) -> None:
        if value in dims and tensor.numel():
            rest = [d for d in range(tensor.dim()) if d != dims[value]]
            largest = tensor.detach().abs().double().amax(rest) if rest else tensor.abs().double()
            found[value] = torch.maximum(found[value], largest)

    for number, batch in enumerate(context.progress(context.data, "equalizing", batches or None)):
        if batches and number == batches:
            break
        run_float(graph, batch.inputs, see)
    return found


def _both_sides(group: ChannelGroup) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest weights that make each channel, and that read it: [C] each."""
    made = torch.stack([_output_ranges(layer) for layer in group.makers]).amax(0)
    return made, torch.stack([_input_ranges(layer) for layer in group.readers]).amax(0)


def _unevenness(ranges: torch.Tensor, weights: torch.Tensor) -> float:
    """How much larger a tensor's range is than the channels that matter need."""
    mattering = float((ranges * weights).max())
    return float(ranges.max() * weights.max()) / mattering if mattering > 0 else 1.0


def _apply(group: ChannelGroup, factors: torch.Tensor) -> float:
    """Rescales a group, unless that changes next to nothing; says by how much at most, 1 where it does not."""
    largest = float(torch.maximum(factors, 1 / factors).max())
    if largest <= 1 + _SETTLED:
        return 1.0
    group.rescale(factors)
    for value, dim in group.values.items():
        if dim == 1:
            move(value, torch.zeros_like(factors), 1 / factors)
    return largest


def even(factors: torch.Tensor, centred: bool = True) -> torch.Tensor:
    """Factors made safe: 1 for dead channels, around 1 in the geometric mean, and bounded."""
    usable = torch.isfinite(factors) & (factors > 0)
    factors = torch.where(usable, factors, torch.ones_like(factors))
    if centred and bool(usable.any()):
        mean = factors[usable].log().mean().exp()
        factors = torch.where(usable, factors / mean, factors)
    return factors.clamp(1 / _LARGEST, _LARGEST)


def _reads_alone(layer: Layer) -> bool:
    """True when each input channel has weights of its own: a depthwise convolution."""
    return layer.linear.is_convolution and layer.linear.group == layer.linear.channels_in


def _input_ranges(layer: Layer) -> torch.Tensor:
    """The largest absolute weight that reads each input channel: [in], float64."""
    numbers = torch.arange(layer.linear.channels_in, dtype=torch.float64)
    return _largest_by(layer, layer.linear.spread_in(numbers), layer.linear.channels_in)


def _output_ranges(layer: Layer) -> torch.Tensor:
    """The largest absolute weight that makes each output channel: [out], float64."""
    numbers = torch.arange(layer.linear.channels_out, dtype=torch.float64)
    return _largest_by(layer, layer.linear.spread_out(numbers), layer.linear.channels_out)


def _largest_by(layer: Layer, channel: torch.Tensor, count: int) -> torch.Tensor:
    """The largest absolute weight among those with the same channel number."""
    weight = layer.linear.numbers().abs()
    index = channel.expand_as(weight).long().flatten()
    return torch.zeros(count, dtype=torch.float64).scatter_reduce(0, index, weight.flatten(), "amax")
