"""Piecewise-linear quantization as ONNX: compress, quantize uniformly, expand.

With a dense grid of step s up to the break-point p and a sparse one of step r s beyond it, compressing what exceeds p
by r makes one uniform grid of both::

    compress(w) = c + (w - c) / r,  c = min(max(w, -p), p)        expand(x) = c + (x - c) r

so the codes of both grids are consecutive integers behind one Q/DQ pair. Quantization in torch trains through it, and
storing the integers needs no more than dropping what comes before them.
"""

from __future__ import annotations

import torch

from graphopt.ir import DType, Graph, Node, Origin, Value
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
    scale = fitted.scale.reshape(() if site.axis is None else (-1,))
    parameters = add_parameters(graph, name, scale, torch.zeros_like(scale).to(dtype.torch), scheme)
    pair = insert_pair(graph, compressed, *parameters, site.axis, before, origin)
    return _bend(graph, pair.dequantize.output, (lower, upper), ratio, before, origin)


def _constant(graph: Graph, data: torch.Tensor, name: str) -> Value:
    return graph.add_constant(data.contiguous(), name)


def _bend(
    graph: Graph, x: Value, bounds: tuple[Value, Value], slope: Value, before: Node, origin: Origin
) -> Value:  # fmt: skip
    """``c + (x - c) * slope``, c being x within `bounds`."""

    def op(kind: str, *inputs: Value) -> Value:
        node = Node(kind, list(inputs), {}, [Value(x.type, f"{x.name}_{kind.lower()}")], origin=origin)
        return graph.insert_before(before, node).output

    centre = op("Min", op("Max", x, bounds[0]), bounds[1])
    return op("Add", centre, op("Mul", op("Sub", x, centre), slope))
