"""awq: channels that activations make important spared by the rounding of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.ir import Graph, Value
from graphopt.passes.quantize.fit import Search, storage
from graphopt.passes.quantize.placement import WeightSite
from graphopt.passes.quantize.recovery.channels import ChannelGroup, channel_groups
from graphopt.passes.quantize.recovery.equalize import even
from graphopt.passes.quantize.recovery.fake import fake_quantized
from graphopt.passes.quantize.recovery.layers import Layer
from graphopt.passes.quantize.recovery.moments import chunks, has_moments, matrix_of, second_moments
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.recovery.rounding import output_error
from graphopt.passes.quantize.sites import Granularity, weight_sites
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import Scheme, load_target

#: Less gain than this is not worth a change.
_WORTH = 0.99


@register("awq")
@dataclass(frozen=True)
class Awq(Pass):
    """Rescale channels so that rounding the weights to few bits harms the outputs least (AWQ).

    Weights that read strong channels are made larger, and the channels smaller to match, where the layers before can
    take that in; the graph computes what it did. The strength is searched for each group of channels, the error of the
    layers' outputs being known from the second moments of their inputs (Lin et al. 2023, arXiv:2306.00978, eq. 5).
    Runs before `insert-weight-qdq`, whose options it is to be given.

    Attributes:
        bits: of the weights, 2 to 16.
        granularity: what has a scale, as in `insert-weight-qdq`.
        block: elements per block, which makes granularity "block".
        symmetric: no zero points.
        search: how `insert-weight-qdq` will find ranges.
        steps: strengths tried between 0 and 1.
        batches: batches to read at most; 0 reads all.
        target: name of a target, or the path of a TOML file.
    """

    contract: ClassVar[Contract] = Contract.EXACT
    needs: ClassVar[frozenset[str]] = frozenset({"data"})

    bits: int = 4
    granularity: Granularity = "channel"
    block: int = 0
    symmetric: bool = True
    search: Search = "minmax"
    steps: int = 10
    batches: int = 8
    target: str = "generic"

    def __post_init__(self) -> None:
        load_target(self.target)
        check_options(
            self,
            ("bits", 2 <= self.bits <= 16, "2 to 16"),
            ("block", self.block >= 0, "0 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("batches", self.batches >= 0, "0 or more"),
        )

    def run(self, graph: Graph, context: Context) -> Changes:
        granularity: Granularity = "block" if self.block else self.granularity
        found = weight_sites(graph, load_target(self.target), granularity, self.block or 32)
        sites = {site.value: site for site in found}
        groups = [group for group in channel_groups(graph) if group.divided and _is_known(group, sites)]
        scaled = 0
        parts = []
        for chunk in context.progress(list(chunks(groups, lambda group: group.readers)), "awq", None):
            readers = [layer for group in chunk for layer in group.readers]
            samples = (b.inputs for number, b in enumerate(context.data) if not self.batches or number < self.batches)
            moments = second_moments(graph, readers, samples)
            for group in chunk:
                part = self._rescale(group, sites, moments)
                scaled += part < 1
                parts.append(part)
        if not scaled:
            return Changes(False, notes=("no rescaling makes the weights round better",))
        mean = float(torch.tensor(parts).log().mean().exp())
        note = f"channels of {scaled} of {len(groups)} tensors rescaled; square error {mean:.2f}x in the mean"
        return Changes(True, counts={"tensors": scaled}, notes=(note,), details={"error_ratio": mean})

    def _rescale(
        self, group: ChannelGroup, sites: Mapping[Value, WeightSite], moments: Mapping[Layer, torch.Tensor]
    ) -> float:
        """Finds the best strength and applies it; returns the part of the error that is left."""
        strengths = _strengths(group, moments)
        errors = []
        candidates = []
        for step in range(self.steps + 1):
            factors = even(strengths.pow(step / self.steps))
            candidates.append(factors)
            errors.append(sum(self._error(layer, sites, factors, moments[layer]) for layer in group.readers))
        best = min(range(len(errors)), key=errors.__getitem__)
        if errors[0] <= 0 or errors[best] > _WORTH * errors[0]:
            return 1.0
        group.rescale(candidates[best])
        return errors[best] / errors[0]

    def _error(
        self, layer: Layer, sites: Mapping[Value, WeightSite], factors: torch.Tensor, moments: torch.Tensor
    ) -> float:
        scheme = Scheme(storage(self.bits, self.symmetric), self.symmetric, bits=self.bits)
        assert layer.weight.data is not None, "weights of layers are constants"
        weight, scale = layer.weight.data.detach().double(), layer.linear.spread_in(factors)
        rounded = fake_quantized((weight * scale).float(), sites[layer.weight], scheme, self.search).double() / scale
        return output_error(matrix_of(layer, rounded - weight), moments)


def _is_known(group: ChannelGroup, sites: Mapping[Value, WeightSite]) -> bool:
    return all(has_moments(layer) and layer.weight in sites for layer in group.readers)


def _strengths(group: ChannelGroup, moments: Mapping[Layer, torch.Tensor]) -> torch.Tensor:
    """Root mean squares of the channels, the largest that any reader sees: [C]."""
    seen = []
    for layer in group.readers:
        power = moments[layer].diagonal(dim1=1, dim2=2)  # [groups, in * taps]
        seen.append(power.reshape(group.size, -1).mean(1).sqrt())
    return torch.stack(seen).amax(0)
