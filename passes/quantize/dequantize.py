"""dequantize: a quantized model in float again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.analysis import propagate
from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ops import execute
from graphopt.ops.quant import integer_range
from graphopt.passes.quantize.pairs import constant_data
from graphopt.pipeline import Changes, Context, Contract, Pass, register

#: Operators that move numbers without changing them, and so do with integers as with floats.
_MOVERS = frozenset({"Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})

#: Operators whose results have no negative numbers.
_POSITIVE = frozenset({"Clip", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax"})
#: Operators that make none of inputs that have none.
_ADDING = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool"})


@register("dequantize")
@dataclass(frozen=True)
class Dequantize(Pass):
    """Take quantization out: weights become the floats that their integers stand for, activations are not rounded.

    Weights keep what quantization made of them. Where integers begin at zero, what was quantized is cut off there:
    tools drop a ReLU or Clip in front of such a quantizer. `qoperator-to-qdq` comes first where a file has QLinearConv
    and the like; products with integers at run time (DynamicQuantizeLinear, MatMulInteger) become float products. To
    quantize for another target: ``dequantize,quantize{target=...}``, or `requantize`.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear", "DequantizeLinear", "MatMulInteger"})

    def run(self, graph: Graph, context: Context) -> Changes:
        counts: Counter[str] = Counter()
        for each in list(graph.graphs()):
            counts["dynamic products"] += sum(_make_float(each, node) for node in list(each.nodes))
            exact: dict[Node, Value] = {}
            for node in [node for node in each.nodes if node.op == "DequantizeLinear" and not node.domain]:
                counts["activations"] += _pass_through(each, _hoist(each, node), exact)
            counts["weights"] += sum(_expand(each, node) for node in list(each.nodes))
        propagate(graph)
        counts = +counts
        return Changes(bool(counts), counts=dict(counts))


def _hoist(graph: Graph, node: Node) -> Node:
    """Moves a DequantizeLinear in front of what only moves numbers, and returns the one that stands there then."""
    mover = node.operand(0).producer
    while mover is not None and mover.op in _MOVERS and not mover.domain and _is_scalar(node.operand(1)):
        origin = mover.origin.touched_by(Dequantize.name)
        source = mover.operand(0)
        real = Value(TensorType(node.output.dtype, source.shape), f"{source.name}_dequantized")
        earlier = Node("DequantizeLinear", [source, *node.inputs[1:]], dict(node.attributes), [real], origin=origin)
        moved = Value(node.output.type, mover.output.name)
        twin = Node(mover.op, [real, *mover.inputs[1:]], dict(mover.attributes), [moved], origin=origin)
        graph.insert_before(node, earlier)
        graph.insert_before(node, twin)
        node.output.replace_uses(moved)
        graph.sweep([node.output])
        node, mover = earlier, source.producer
    return node


def _pass_through(graph: Graph, node: Node, exact: dict[Node, Value]) -> bool:
    """Has the readers of a DequantizeLinear read what was quantized, when that is an activation on the same grid."""
    quantizer = node.operand(0).producer
    if quantizer is None or quantizer.op != "QuantizeLinear" or quantizer.domain:
        return False
    if constant_data(quantizer.operand(0)) is not None or not _same(quantizer.operand(1), node.operand(1)):
        return False
    if quantizer not in exact:
        exact[quantizer] = _within_range(graph, quantizer)
    node.output.replace_uses(exact[quantizer])
    graph.sweep([node.output])
    return True


def _within_range(graph: Graph, quantizer: Node) -> Value:
    """What is quantized, cut off where the integers end when they begin at zero: that is what became of a ReLU."""
    source, scale, zero = quantizer.operand(0), quantizer.operand(1), quantizer.input(2)
    least, greatest = integer_range(quantizer.output.dtype)
    offset = 0 if zero is None or zero.data is None else int(zero.data.reshape(-1)[0])
    if scale.data is None or not _is_scalar(scale) or offset != least or _is_cut_off(source):
        return source
    bounds = (torch.tensor(0.0), scale.data.reshape(()) * (greatest - offset))
    limits = [graph.add_constant(bound, f"{source.name}_{end}") for bound, end in zip(bounds, "ab", strict=True)]
    clip = Node(
        "Clip", [source, *limits], {}, [Value(source.type, f"{source.name}_clipped")],
        origin=quantizer.origin.touched_by(Dequantize.name),
    )  # fmt: skip
    return graph.insert_before(quantizer, clip).output


def _is_cut_off(value: Value) -> bool:
    """True for what is never negative anyway, and for what enters the graph."""
    seen: set[Value] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        node = each.producer
        if each in seen or node is None or node.op in _POSITIVE:
            continue
        if node.op not in _MOVERS and node.op not in _ADDING:
            return False
        seen.add(each)
        waiting += [read for read in node.inputs[: None if node.op in _ADDING else 1] if read is not None]
    return True


def _same(a: Value, b: Value) -> bool:
    return a is b or (a.data is not None and b.data is not None and torch.equal(a.data, b.data))


def _expand(graph: Graph, node: Node) -> bool:
    """Replaces a DequantizeLinear of constants, or of what is quantized from constants, by its result."""
    if node.op != "DequantizeLinear" or node.domain:
        return False
    stored = node.operand(0)
    data = stored.data if stored.is_constant else _quantized(stored)
    parameters = [None if value is None else value.data for value in node.inputs[1:]]
    if data is None or any(v is not None and p is None for v, p in zip(node.inputs[1:], parameters, strict=True)):
        return False
    with torch.no_grad():
        result = execute(node, [data, *parameters])[0].contiguous()
    parameter = stored.parameter
    constant = graph.add_constant(result, node.output.name)
    node.output.replace_uses(constant)
    graph.sweep([node.output])
    if parameter is not None and stored.graph is None:
        constant.parameter = parameter
    return True


def _quantized(stored: Value) -> torch.Tensor | None:
    node = stored.producer
    if node is None or node.op != "QuantizeLinear" or node.domain:
        return None
    inputs = [None if value is None else constant_data(value) for value in node.inputs]
    if any(value is not None and data is None for value, data in zip(node.inputs, inputs, strict=True)):
        return None
    with torch.no_grad():
        result: torch.Tensor = execute(node, inputs)[0]
    return result


def _make_float(graph: Graph, node: Node) -> bool:
    """``Mul(Cast(MatMulInteger(DynamicQuantizeLinear(x), w)), x_scale * w_scale)`` becomes ``MatMul(x, w)``."""
    if node.op != "MatMulInteger" or node.domain or len(node.output.uses) != 1:
        return False
    quantizer, stored = node.operand(0).producer, node.operand(1)
    cast = node.output.users[0]
    if quantizer is None or quantizer.op != "DynamicQuantizeLinear" or stored.data is None or cast.op != "Cast":
        return False
    product = cast.output.users[0] if len(cast.output.uses) == 1 else None
    if product is None or product.op != "Mul" or product.domain:
        return False
    scales = product.operand(1 if product.operand(0) is cast.output else 0).producer
    if scales is None or scales.op != "Mul" or quantizer.outputs[1] not in scales.inputs:
        return False
    step = scales.operand(1 if scales.operand(0) is quantizer.outputs[1] else 0)
    if step.data is None:
        return False
    shift = node.input(3)
    offset = 0.0 if shift is None or shift.data is None else shift.data.float()
    weight = graph.add_constant((stored.data.float() - offset) * step.data, f"{stored.name}_float")
    made = Node(
        "MatMul", [quantizer.operand(0), weight], {}, [Value(product.output.type, product.output.name)],
        origin=product.origin.touched_by(Dequantize.name),
    )  # fmt: skip
    graph.insert_before(product, made)
    product.output.replace_uses(made.output)
    graph.sweep([product.output])
    return True


def _is_scalar(value: Value) -> bool:
    return value.rank == 0 or value.shape == (1,)
