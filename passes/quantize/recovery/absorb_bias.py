"""absorb-bias: what a channel always exceeds moved into the biases of the layers that read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.passes.quantize.calibration import run_float
from graphopt.passes.quantize.recovery.correct_bias import BiasSite, bias_site
from graphopt.passes.quantize.recovery.layers import Layer, layer_of, layers
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.recovery.statistics import Statistics, move, statistics_of
from graphopt.pipeline import Changes, Context, Contract, Pass, register


@register("absorb-bias")
@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Take from channels in front of a ReLU what they always exceed, so that large biases do not use up ranges.

    With mean m and deviation s of a channel before the ReLU, ``c = max(0, m - 3 s)`` leaves its bias, and the weights
    of the readers times c enter theirs (high-bias absorption, Nagel et al. 2019, arXiv:1906.04721, section 4.1.3).
    ``relu(y - c) = relu(y) - c`` holds wherever y >= c, which for normal numbers is 99.865% of them: the result is
    close, not the same. Where a BatchNormalization is still in front, or was when `keep-statistics` ran, its shift and
    scale are m and s; elsewhere they are measured on the run's data. Readers that pad with zeros are left alone, as the
    zeros would have to become -c. Runs behind `equalize`, before `insert-qdq`.

    Attributes:
        deviations: how many deviations below the mean still count as always.
        batches: batches to read at most; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    looks_for: ClassVar[frozenset[str]] = frozenset({"Relu"})

    deviations: float = 3.0
    batches: int = 8

    def __post_init__(self) -> None:
        check_options(
            self,
            ("deviations", self.deviations >= 0, "0 or more"),
            ("batches", self.batches >= 0, "0 or more"),
        )

    def run(self, graph: Graph, context: Context) -> Changes:
        places = list(_places(graph))
        if not places:
            return Changes(False, notes=("no ReLU stands between a bias and layers that could absorb it",))
        known = {place.before: found for place in places if (found := statistics_of(place.before)) is not None}
        unknown = [place for place in places if place.before not in known]
        measurable = context.has_data or len(unknown) == len(places)
        if unknown and measurable:
            known.update(self._measure(graph, unknown, context))
        left = 0 if measurable else len(unknown)
        largest = []
        for place in places:
            if place.before in known:
                found = known[place.before]
                largest.append(place.absorb(graph, (found.mean - self.deviations * found.deviation).clamp(min=0)))
        changed = sum(shift > 0 for shift in largest)
        notes = [f"biases of {changed} of {len(places)} tensors absorbed, up to {max(largest, default=0.0):.3g}"]
        if left:
            notes.append(f"{left} tensors without statistics were left alone: there is no data")
        return Changes(changed > 0, counts={"tensors": changed}, notes=tuple(notes))

    def _measure(self, graph: Graph, places: Sequence[_Place], context: Context) -> dict[Value, Statistics]:
        """Means and deviations of the channels in front of each ReLU."""
        axes = {place.before: place.axis for place in places}
        seen: dict[Value, tuple[int, torch.Tensor, torch.Tensor]] = {}

        def see(value: Value, tensor: torch.Tensor) -> None:
            if value not in axes or not tensor.numel():
                return
            rows = tensor.detach().double().movedim(axes[value], 0).flatten(1)
            count, mean, spread = seen.get(value, (0, torch.zeros(()), torch.zeros(())))
            total = count + rows.shape[1]
            offset = rows.mean(1) - mean
            spread = spread + rows.var(1, correction=0) * rows.shape[1] + offset**2 * count * rows.shape[1] / total
            seen[value] = (total, mean + offset * rows.shape[1] / total, spread)

        for number, batch in enumerate(context.progress(context.data, "measuring biases", self.batches or None)):
            if self.batches and number == self.batches:
                break
            run_float(graph, batch.inputs, see)
        return {value: Statistics(mean, (spread / count).sqrt()) for value, (count, mean, spread) in seen.items()}


@dataclass(frozen=True)
class _Place:
    """A ReLU between a bias and the layers that can absorb it.

    Attributes:
        before: what the ReLU reads.
        axis: dimension of the channels.
        norm: the BatchNormalization that makes it, if one does.
        site: else the layer's bias.
        readers: the layers, with their biases.
    """

    before: Value
    axis: int
    norm: Node | None
    site: BiasSite | None
    readers: tuple[BiasSite, ...]

    def absorb(self, graph: Graph, shift: torch.Tensor) -> float:
        """Moves a number of each channel [C], float64; returns the largest, 0 when nothing was to be moved."""
        if not bool((shift > 0).any()) or not bool(torch.isfinite(shift).all()):
            return 0.0
        if self.norm is not None:
            bias = self.norm.operand(2)
            assert bias.data is not None, "places have constant shifts"
            bias.data = (bias.data.detach().double() - shift).to(bias.data.dtype)
        elif self.site is not None:
            self.site.add(graph, -shift)
        move(self.before, -shift, torch.ones_like(shift))
        for reader in self.readers:
            linear = reader.layer.linear
            reader.add(graph, linear.sum_over_inputs(linear.numbers() * linear.spread_in(shift)))
        return float(shift.max())


def _places(graph: Graph) -> Iterator[_Place]:
    made = {site.result: site for site in map(bias_site, layers(graph)) if site is not None}
    for node in list(graph.nodes):
        if node.op != "Relu" or node.domain or node.output.is_output:
            continue
        before = node.operand(0)
        if len(before.uses) != 1 or before.producer is None:
            continue
        norm, site = _norm(before.producer), made.get(before)
        if norm is None and site is None:
            continue
        axis = 1 if site is None else site.axis
        readers = [_reader(use.user, use.index, axis) for use in node.output.uses]
        absorbing = tuple(reader for reader in readers if reader is not None)
        if absorbing and len(absorbing) == len(readers):
            yield _Place(before, axis, norm, site, absorbing)


def _norm(node: Node) -> Node | None:
    """The node, if it is a BatchNormalization at inference with a shift of its own."""
    if node.op != "BatchNormalization" or node.domain or len(node.outputs) != 1:
        return None
    scale, shift = node.operand(1), node.operand(2)
    own = scale.data is not None and shift.is_constant and shift.data is not None and len(shift.uses) == 1
    return node if own else None


def _reader(user: Node | Graph, index: int, axis: int) -> BiasSite | None:
    """Where the reader of a ReLU can take the shift in: a layer over its channels that pads nothing."""
    layer: Layer | None = layer_of(user) if isinstance(user, Node) and index == 0 else None
    if layer is None or layer.node.op == "ConvTranspose":
        return None
    linear = layer.linear
    over = 1 if linear.is_convolution else (layer.node.operand(0).rank or 0) - 1
    if over != axis or (linear.is_convolution and not linear.pads_nothing):
        return None
    return bias_site(layer)
