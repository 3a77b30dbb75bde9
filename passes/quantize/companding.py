"""What stands in front of a weight's quantizer: bounds for fewer bits than the type has, and piecewise-linear formats.

Piecewise-linear quantization as ONNX is to compress, quantize uniformly, and expand.

With a dense grid of step s up to the break-point p and a sparse one of step r s beyond it, compressing what exceeds p
by r makes one uniform grid of both::

    compress(w) = c + (w - c) / r,  c = min(max(w, -p), p)        expand(x) = c + (x - c) r

so the codes of both grids are consecutive integers behind one Q/DQ pair. Quantization in torch trains through it, and
storing the integers needs no more than dropping what comes before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import DType, Graph, Node, Origin, TensorType, Value, ValueType
from graphopt.passes.quantize.fit import Piecewise
from graphopt.passes.quantize.pairs import add_parameters, insert_pair
from graphopt.passes.quantize.placement import WeightSite
from graphopt.targets import Scheme


def insert_piecewise(
    graph: Graph, site: WeightSite, fitted: Piecewise, dtype: DType, before: Node, origin: Origin
) -> Value:
    """Puts compress, Q, DQ and expand behind a weight and returns what comes out.

    Args:
        graph: the graph of `before`.
        site: the weight, with one row in `fitted` per index of its axis.
        fitted: break-points and steps.
        dtype: of the codes.
        before: where to put the nodes.
        origin: where they come from.
    """
    assert site.value.rank is not None, "weights have shapes"
    shape = [1] * site.value.rank
    if site.axis is not None:
        shape[site.axis] = -1
    name = site.value.name
    ratio = _constant(graph, fitted.ratio.reshape(shape), f"{name}_ratio")
    inverse = _constant(graph, 1 / fitted.ratio.reshape(shape), f"{name}_inverse_ratio")
    upper = _constant(graph, fitted.breaks.reshape(shape), f"{name}_break")
    lower = _constant(graph, -fitted.breaks.reshape(shape), f"{name}_negative_break")
    compressed = _bend(graph, site.value, (lower, upper), inverse, before, origin)
    scheme = Scheme(dtype, symmetric=True)
    limits = (-2 * fitted.levels, 2 * fitted.levels)
    scale = fitted.scale.reshape(() if site.axis is None else (-1,))
    parameters = add_parameters(graph, name, scale, torch.zeros_like(scale).to(dtype.torch), scheme)
    held = hold_within(graph, compressed, site, parameters, limits, before, origin)
    pair = insert_pair(graph, held, *parameters, site.axis, before, origin)
    return _bend(graph, pair.dequantize.output, (lower, upper), ratio, before, origin)


def _constant(graph: Graph, data: torch.Tensor, name: str) -> Value:
    return graph.add_constant(data.contiguous(), name)


def _bend(
    graph: Graph, x: Value, bounds: tuple[Value, Value], slope: Value, before: Node, origin: Origin
) -> Value:  # fmt: skip
    """``c + (x - c) * slope``, c being x within `bounds`."""
    put = _Put(graph, x.name, before, origin)
    centre = put("Min", put("Max", x, bounds[0], type=x.type), bounds[1], type=x.type)
    return put("Add", centre, put("Mul", put("Sub", x, centre, type=x.type), slope, type=x.type), type=x.type)


@dataclass(frozen=True)
class _Put:
    """Puts operators in front of a node and returns what they make."""

    graph: Graph
    name: str
    before: Node
    origin: Origin

    def __call__(self, kind: str, *inputs: Value, type: ValueType) -> Value:
        node = Node(kind, list(inputs), {}, [Value(type, f"{self.name}_{kind.lower()}")], origin=self.origin)
        return self.graph.insert_before(self.before, node).output


def hold_within(
    graph: Graph, x: Value, site: WeightSite, parameters: tuple[Value, Value], limits: tuple[int, int], before: Node,
    origin: Origin,
) -> Value:  # fmt: skip
    """``min(max(x, low), high)``, the bounds being what the integers `limits` stand for.

    A quantizer saturates where its type does. With fewer bits than the type has, weights outside the range - cut off by
    choice, or moved there by training - would take up more. The bounds are computed from the scale, so that they follow
    one that is learned.

    Args:
        graph: the graph of `before`.
        x: the weight, or what it became.
        site: how scales run along it.
        parameters: scale and zero point.
        limits: the least and the greatest integer in use.
        before: where to put the nodes.
        origin: where they come from.
    """
    scale, zero = parameters
    assert zero.data is not None, "zero points of weights are constants"
    put = _Put(graph, x.name, before, origin)
    for kind, limit in zip(("Max", "Min"), limits, strict=True):
        steps = _constant(graph, float(limit) - zero.data.to(torch.float32), f"{x.name}_steps")
        bound = _spread(graph, put("Mul", scale, steps, type=scale.type), x, site, put)
        x = put(kind, x, bound, type=x.type)
    return x


def _spread(graph: Graph, bound: Value, x: Value, site: WeightSite, put: _Put) -> Value:
    """A number per scale in a shape that broadcasts to that of `x`."""
    shape = [int(str(extent)) for extent in x.shape or ()]
    if bound.rank == 0 or site.axis is None:
        return bound

    def viewed(kind: str, value: Value, *sizes: list[int]) -> Value:
        given = [_constant(graph, torch.tensor(each), f"{x.name}_shape") for each in sizes]
        return put(kind, value, *given, type=TensorType(DType.FLOAT32, None))

    if not site.block:
        return viewed("Reshape", bound, [-1 if dim == site.axis else 1 for dim in range(len(shape))])
    left, right, extent = shape[: site.axis], shape[site.axis + 1 :], shape[site.axis]
    count = -(-extent // site.block)
    split = viewed("Reshape", bound, [*left, count, 1, *right])
    wide = viewed("Expand", split, [*left, count, site.block, *right])
    whole = viewed("Reshape", wide, [*left, count * site.block, *right])
    return whole if count * site.block == extent else viewed("Slice", whole, [0], [extent], [site.axis])
