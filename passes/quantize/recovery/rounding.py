"""Weights rounded to the grids of their Q/DQ pairs in another way than to nearest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from graphopt.errors import PassError
from graphopt.ir import Graph
from graphopt.ops import attribute
from graphopt.ops.quant import spread
from graphopt.passes.quantize.recovery.layers import Layer, quantized_layers
from graphopt.passes.quantize.recovery.moments import chunks, has_moments, matrix_of, second_moments, weight_of
from graphopt.pipeline import Changes, Context


@dataclass(frozen=True)
class Grid:
    """The numbers that each element of a weight can become: ``step * (code - offset)``.

    Attributes:
        step: [groups, out, in], float64, as `matrix_of` shapes weights.
        offset: zero points, in the same shape.
        least: smallest code in use.
        greatest: greatest code in use.
    """

    step: torch.Tensor
    offset: torch.Tensor
    least: float
    greatest: float

    @classmethod
    def of(cls, layer: Layer) -> Grid:
        """The grid of a quantized layer; the codes in use are those of its weights rounded to nearest."""
        pair, weight = layer.pair, layer.weight.data
        assert pair is not None and weight is not None, "quantized layers have both"
        assert pair.scale.data is not None and pair.zero_point.data is not None, "parameters of weights are constants"
        node = pair.quantize
        axis = int(attribute(node, "axis")) % max(weight.dim(), 1)
        block = int(attribute(node, "block_size"))
        shape = weight.shape
        step = spread(pair.scale.data.double(), weight, axis, block).expand(shape)
        offset = spread(pair.zero_point.data.double(), weight, axis, block).expand(shape)
        codes = torch.round(weight.double() / step) + offset
        low, high = torch.iinfo(pair.zero_point.data.dtype).min, torch.iinfo(pair.zero_point.data.dtype).max
        if pair.zero_point.dtype.bits < 8:
            signed = low < 0
            low = -(1 << pair.zero_point.dtype.bits - 1) if signed else 0
            high = low + (1 << pair.zero_point.dtype.bits) - 1
        least, greatest = (float(c) for c in torch.aminmax(codes.clamp(low, high)))
        return cls(matrix_of(layer, step), matrix_of(layer, offset), least, greatest)

    def nearest(self, weight: torch.Tensor, columns: slice = slice(None)) -> torch.Tensor:
        """Numbers of the grid next to `weight`, which holds the given columns."""
        step, offset = self.step[..., columns], self.offset[..., columns]
        codes = (torch.round(weight / step) + offset).clamp(self.least, self.greatest)
        return (codes - offset) * step


def output_error(error: torch.Tensor, moments: torch.Tensor) -> float:
    """Mean square error of a layer's outputs, summed over them, when its weight is off by `error` [groups, out, in]."""
    return float(((error @ moments) * error).sum())


#: Rounds a weight [groups, out, in] to a grid, given the moments [groups, in, in] of what it multiplies; all float64.
Rounder = Callable[[torch.Tensor, Grid, torch.Tensor], torch.Tensor]


def round_layers(graph: Graph, context: Context, batches: int, rounder: Rounder, what: str) -> Changes:
    """Rounds the weights of all quantized layers with `rounder`, keeping nearest rounding where that is no better.

    Layers are taken in order, behind those that are rounded already.

    Args:
        graph: the graph, weights float behind their pairs.
        context: whose data is read.
        batches: how many batches at most; 0 for all.
        rounder: the method.
        what: the pass, for progress and errors.

    Raises:
        PassError: no weight is behind a Q/DQ pair in float.
    """
    layers = [layer for layer in quantized_layers(graph) if has_moments(layer)]
    if not layers:
        raise PassError(
            "no layer has a float weight behind a Q/DQ pair", where=what,
            hint="run it between insert-qdq (or quantize-weights) and pack-weights",
        )  # fmt: skip
    before = after = 0.0
    better = 0
    for chunk in context.progress(list(chunks(layers, lambda layer: [layer])), what, None):
        samples = (batch.inputs for number, batch in enumerate(context.data) if not batches or number < batches)
        moments = second_moments(graph, chunk, samples)
        for layer in chunk:
            assert layer.weight.data is not None, "weights of layers are constants"
            data = layer.weight.data
            weight, grid = matrix_of(layer, data.detach().double()), Grid.of(layer)
            nearest = grid.nearest(weight)
            rounded = rounder(weight, grid, moments[layer])
            errors = [output_error(each - weight, moments[layer]) for each in (nearest, rounded)]
            before += errors[0]
            after += min(errors)
            if errors[1] < errors[0]:
                better += 1
                layer.weight.data = weight_of(layer, rounded).to(data.dtype)
    part = after / before if before > 0 else 1.0
    note = f"{better} of {len(layers)} weights; mean square error of layers {part:.2f}x that of rounding to nearest"
    return Changes(better > 0, counts={"weights": better}, notes=(note,), details={"error_ratio": part})
