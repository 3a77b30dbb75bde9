"""Means and variances of channels throughout a graph, found without data from what batch normalizations say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Node, Value
from graphopt.ops import attribute, execute, record_of
from graphopt.passes.quantize.pairs import constant_data
from graphopt.passes.quantize.recovery.layers import Layer
from graphopt.passes.quantize.recovery.statistics import statistics_of

#: Normal numbers are taken at so many points, evenly from -_REACH to _REACH deviations. A kink is then off by 1e-5.
_POINTS = 1201
_REACH = 6.0

#: Size of an image along a dimension whose size is not known.
_EXTENT = 32

#: What stands between a weight and its layer, its number format included.
_STORES = frozenset(
    {"Add", "DequantizeLinear", "Expand", "Max", "Min", "Mul", "QuantizeLinear", "Reshape", "Slice", "Sub", "Transpose"}
)

_SUMS = ("Add", "Sub", "Sum")
_SAME = ("DequantizeLinear", "Dropout", "Identity", "QuantizeLinear")
_VIEWS = ("Flatten", "Reshape", "Squeeze")
_MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")


@dataclass(frozen=True)
class Moments:
    """Mean and variance of the channels of a value, which are its dimension 1.

    Attributes:
        mean: [C], float64.
        variance: [C], float64; ``None`` when not known.
    """

    mean: torch.Tensor
    variance: torch.Tensor | None


def expectations(graph: Graph) -> dict[Value, Moments]:
    """The moments of every value of the outermost graph that batch normalizations tell something about.

    What one makes is normal with its shift as mean and its scale as deviation (Nagel et al. 2019, arXiv:1906.04721,
    section 4.2.1). Of an elementwise operator on that, moments are integrals over the normal density - of ReLU and Clip
    those of the clipped normal distribution (appendix C there), here for whatever the operator computes. Sums add means
    and, as if their terms were independent, variances; a sum then counts as normal. Averages keep means.

    Args:
        graph: types must be up to date. Q/DQ pairs count as passing numbers through.
    """
    known: dict[Value, Moments] = {}
    for node in graph.nodes:
        for value in node.outputs[:1]:
            found = _moments(node, value, known)
            if found is not None:
                known[value] = found
    return known


def _moments(node: Node, value: Value, known: Mapping[Value, Moments]) -> Moments | None:
    statistics = statistics_of(value)
    if statistics is not None:
        return Moments(statistics.mean, statistics.deviation.square())
    inputs = list(dict.fromkeys(each for each in node.inputs if each is not None and not each.is_constant))
    if node.domain or not inputs or any(each not in known for each in inputs):
        return None
    first = known[inputs[0]]
    if node.op in _SAME:
        return first
    if node.op in _VIEWS:
        return _viewed(node, first)
    if node.op in _MEANS:
        return Moments(first.mean, None) if _averages(node) else None
    if node.op in _SUMS and len(inputs) > 1:
        return _sum(node, [known[each] for each in inputs]) if len(inputs) == len(node.inputs) else None
    if node.op == "Concat" and attribute(node, "axis") in (1, 1 - (value.rank or 0)):
        return _concatenated([known[each] for each in inputs]) if len(inputs) == len(node.inputs) else None
    record = record_of(node)
    if record is None or not record.elementwise or len(inputs) > 1 or inputs[0].shape != value.shape:
        return None
    return _integrated(node, inputs[0], first)


def _viewed(node: Node, known: Moments) -> Moments | None:
    """Rows of a matrix: what follows the channels is behind each of them."""
    before, after = node.operand(0).shape, node.outputs[0].shape
    if before is None or after is None or len(after) != 2 or before[0] != after[0] or not isinstance(after[1], int):
        return None
    count, rest = divmod(after[1], len(known.mean))
    if rest:
        return None
    variance = None if known.variance is None else known.variance.repeat_interleave(count)
    return Moments(known.mean.repeat_interleave(count), variance)


def _averages(node: Node) -> bool:
    """True when a node averages over positions, of which each counts the same and none is padding."""
    if node.op == "AveragePool":
        return not (attribute(node, "count_include_pad") and any(node.attributes.get("pads") or ()))
    if node.op == "GlobalAveragePool":
        return True
    axes, rank = node.input(1), node.operand(0).rank
    if axes is None or axes.data is None or rank is None:
        return False
    return not {0, 1} & {int(axis) % rank for axis in axes.data.reshape(-1)}


def _sum(node: Node, terms: list[Moments]) -> Moments | None:
    if len({len(term.mean) for term in terms}) > 1 or len({each.shape for each in node.inputs if each is not None}) > 1:
        return None
    signs = [1.0, -1.0] if node.op == "Sub" else [1.0] * len(terms)
    mean = torch.stack([sign * term.mean for sign, term in zip(signs, terms, strict=True)]).sum(0)
    variances = [term.variance for term in terms if term.variance is not None]
    return Moments(mean, torch.stack(variances).sum(0) if len(variances) == len(terms) else None)


def _concatenated(parts: list[Moments]) -> Moments:
    variances = [part.variance for part in parts if part.variance is not None]
    variance = torch.cat(variances) if len(variances) == len(parts) else None
    return Moments(torch.cat([part.mean for part in parts]), variance)


def _integrated(node: Node, source: Value, known: Moments) -> Moments | None:
    """Mean and variance of what an elementwise node computes of normal numbers."""
    if known.variance is None:
        return None
    z = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    weight = (density / density.sum())[:, None]
    points = (known.mean + known.variance.sqrt() * z[:, None]).reshape(_POINTS, -1, *[1] * ((source.rank or 2) - 2))
    given = [
        points if value is source else value.data.double() if value is not None and value.data is not None else None
        for value in node.inputs
    ]
    try:
        result = execute(node, given)[0]
    except (GraphoptError, RuntimeError):  # constants of positions do not go with channels alone
        return None
    if result.shape != points.shape or not bool(torch.isfinite(result).all()):
        return None
    values = result.double().flatten(1)
    mean = (weight * values).sum(0)
    return Moments(mean, (weight * (values - mean).square()).sum(0))


def mean_error(layer: Layer, known: Mapping[Value, Moments]) -> torch.Tensor | None:
    """What the error of a quantized weight adds to each channel in the mean: ``(Q(W) - W) E[x]``, [out], float64.

    The layer itself is applied to mean inputs, so that the zeros around an image count as what they are. Where an
    extent is not known, it is taken to be `_EXTENT`. ``None`` when nothing is known of the input.
    """
    source, weight = layer.node.operand(0), layer.weight.data
    stored = constant_data(layer.node.operand(1), _STORES)
    if source not in known or source.shape is None or stored is None or weight is None:
        return None
    mean = known[source].mean
    if len(mean) != layer.linear.channels_in or (not layer.linear.is_convolution and source.rank != 2):
        return None
    exact = weight.detach().t() if layer.linear.view else weight.detach()
    extents = [extent if isinstance(extent, int) else _EXTENT for extent in source.shape[2:]]
    image = mean.reshape(1, -1, *[1] * len(extents)).expand(1, -1, *extents)
    result: torch.Tensor = execute(layer.node, [image, stored.double() - exact.double()])[0]
    return result.transpose(0, 1).flatten(1).mean(1)
