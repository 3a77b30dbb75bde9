"""split-channels: input channels with outlying weights divided among copies, so that weights need a smaller range."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from graphopt.ir import Graph
from graphopt.ops.quant import spread
from graphopt.passes.quantize.fit import fit_range, rows_of, storage
from graphopt.passes.quantize.placement import WeightSite
from graphopt.passes.quantize.recovery.fake import fake_quantized
from graphopt.passes.quantize.recovery.layers import Layer, layers
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.recovery.split_inputs import dim_in, is_dense, repeat_inputs, replace_data
from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.passes.quantize.sites import weight_sites
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import Scheme, load_target

#: What must be left of the error at most for it to be worth the copies.
_WORTH = 0.9
#: Rounds in which the step and the shifts by parts of it settle; each divides what is missing by 2^bits or more.
_ROUNDS = 3


@register("split-channels")
@dataclass(frozen=True)
class SplitChannels(Pass):
    """Give input channels with the largest weights copies among which the weights are divided (outlier splitting).

    The range of the weights shrinks, and no number is clipped. Of n copies number i gets the weight ``(w + (i - (n -
    1) / 2) s) / n``, s being the step of the quantization: these add up to w, and once rounded to what w is rounded to
    (Zhao et al. 2019, arXiv:1901.09504, section 3.2 to 3.4; by Hermite's identity for any n, where the paper halves
    again). Channels are chosen one by one, each time the one that holds the largest weights. The layer in front makes
    the copies when nothing else reads what it makes, else a Gather does. Runs before `insert-qdq`, whose target it is
    to be given, or `insert-weight-qdq`; it is for one scale per tensor, as channels' own scales leave it little to win.

    Attributes:
        ratio: copies to add, as a part of the layer's input channels, rounded up.
        granularity: what will have a scale, "tensor" or (output) "channel".
        bits: of the weights, 2 to 16.
        target: name of a target, or the path of a TOML file.
    """

    contract: ClassVar[Contract] = Contract.EXACT

    ratio: float = 0.02
    granularity: Literal["tensor", "channel"] = "tensor"
    bits: int = 8
    target: str = "generic"

    def __post_init__(self) -> None:
        load_target(self.target)
        check_options(
            self,
            ("ratio", 0 < self.ratio <= 1, "more than 0 and at most 1"),
            ("bits", 2 <= self.bits <= 16, "2 to 16"),
        )

    def run(self, graph: Graph, context: Context) -> Changes:
        sites = {site.value: site for site in weight_sites(graph, load_target(self.target), self.granularity, 0)}
        scheme = Scheme(storage(self.bits, True), symmetric=True, bits=self.bits)
        candidates = [layer for layer in layers(graph) if layer.weight in sites and is_dense(layer)]
        done = {layer: self._split(graph, layer, sites[layer.weight], scheme) for layer in candidates}
        parts = [part for part in done.values() if part is not None]
        if not parts:
            return Changes(False, notes=("no copies of channels make weights round better",))
        added = sum(copies for copies, _ in parts)
        mean = math.exp(sum(math.log(error) for _, error in parts) / len(parts))
        note = f"{added} channels added to {len(parts)} of {len(candidates)} layers; square error of their weights "
        note += f"{mean:.2f}x in the mean"
        counts = {"layers": len(parts), "channels": added}
        return Changes(True, counts=counts, notes=(note,), details={"error_ratio": mean})

    def _split(self, graph: Graph, layer: Layer, site: WeightSite, scheme: Scheme) -> tuple[int, float] | None:
        """Splits channels of a layer; returns how many copies there are more and which part of the error is left."""
        weight, dim = layer.weight.data, dim_in(layer)
        assert weight is not None, "weights of layers are constants"
        sizes = _sizes(weight, dim, site.axis)
        copies = share_out(sizes, math.ceil(self.ratio * sizes.shape[1]))
        split = divided(weight, dim, copies, lambda each: _steps(each, site, scheme))
        error = _error(weight, weight, dim, torch.ones_like(copies), site, scheme)
        left = _error(weight, split, dim, copies, site, scheme)
        if left > _WORTH * error or left <= 0:
            return None
        repeat_inputs(graph, layer, copies, self.name)
        replace_data(layer.weight, split)
        return int(copies.sum()) - len(copies), left / error


def _sizes(weight: torch.Tensor, dim: int, axis: int | None) -> torch.Tensor:
    """The largest magnitude among the weights of each scale and input channel: [scales, in], float64."""
    size = weight.detach().double().abs()
    if axis is None:
        return size.movedim(dim, 0).flatten(1).amax(1)[None]
    return size.movedim((axis, dim), (0, 1)).reshape(size.shape[axis], size.shape[dim], -1).amax(2)


def share_out(sizes: torch.Tensor, added: int) -> torch.Tensor:
    """How many times each channel is there when `added` copies go, one by one, to what sets the ranges.

    Args:
        sizes: [scales, in].
        added: copies.

    Returns:
        [in], integers; each time the channel that is largest for scales whose squares add up to most.
    """
    copies = torch.ones(sizes.shape[1], dtype=torch.long)
    for _ in range(added):
        largest, channel = (sizes / copies).max(1)
        copies[torch.zeros(len(copies), dtype=sizes.dtype).index_add(0, channel, largest.square()).argmax()] += 1
    return copies


def divided(
    weight: torch.Tensor, dim: int, copies: torch.Tensor, steps: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """A weight with its input channels repeated, and divided so that rounding the parts rounds the whole.

    Args:
        weight: any shape.
        dim: dimension of the input channels.
        copies: how many times each is to be there: [in].
        steps: the steps between numbers of a weight once quantized, broadcasting against it.
    """
    shape = [-1 if d == dim else 1 for d in range(weight.dim())]
    count = copies.repeat_interleave(copies).reshape(shape)
    number = torch.cat([torch.arange(int(each)) for each in copies]).reshape(shape)
    whole = weight.detach().double().repeat_interleave(copies, dim)
    parts = whole / count
    for _ in range(_ROUNDS):
        parts = (whole + (number - (count - 1) / 2) * steps(parts)) / count
    return parts.to(weight.dtype)


def _steps(weight: torch.Tensor, site: WeightSite, scheme: Scheme) -> torch.Tensor:
    scale, _ = parameters_of_range(*fit_range(rows_of(weight, site.axis), scheme, "minmax"), scheme)
    return spread(scale.double().reshape(site.parameter_shape(weight.shape)), weight, site.axis or 0, 0)


def _error(
    whole: torch.Tensor, parts: torch.Tensor, dim: int, copies: torch.Tensor, site: WeightSite, scheme: Scheme
) -> float:
    """Square error of a weight that is the sum of rounded parts."""
    rounded = fake_quantized(parts, site, scheme).double()
    channel = torch.arange(len(copies)).repeat_interleave(copies)
    sums = torch.zeros(whole.shape, dtype=torch.float64).index_add(dim, channel, rounded)
    return float((sums - whole.detach().double()).square().sum())
