"""Q/DQ pairs: making them, finding them, reading their scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cmp_to_key

import torch

from graphopt.ir import Graph, Node, Origin, TensorType, Value
from graphopt.ops import execute
from graphopt.targets import Scheme

#: What number formats put between a weight and its quantizer.
_COMPRESSING = frozenset({"Add", "Expand", "Max", "Min", "Mul", "Reshape", "Slice", "Sub"})


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear and the DequantizeLinear that reads it."""

    quantize: Node
    dequantize: Node

    @property
    def source(self) -> Value:
        return self.quantize.operand(0)

    @property
    def scale(self) -> Value:
        return self.quantize.operand(1)

    @property
    def zero_point(self) -> Value:
        return self.quantize.operand(2)


def add_parameters(
    graph: Graph, name: str, scale: torch.Tensor, zero_point: torch.Tensor, scheme: Scheme
) -> tuple[Value, Value]:
    """Adds scale and zero point as constants of the graph."""
    return (
        graph.add_constant(scale, f"{name}_scale"),
        graph.add_constant(zero_point, f"{name}_zero_point", dtype=scheme.dtype),
    )


def insert_pair(
    graph: Graph, value: Value, scale: Value, zero_point: Value, axis: int | None, before: Node | None, origin: Origin,
    block: int = 0,
) -> Pair:  # fmt: skip
    """Puts Q and DQ behind `value`: before `before`, or right after what produces it (at the start for inputs).

    Args:
        graph: the graph.
        value: what is quantized.
        scale: a scalar; a vector along `axis`; or, blocked, of the rank of `value`.
        zero_point: of the shape of `scale`.
        axis: the dimension that has a scale per index or block; ``None`` for one scale.
        before: where to put the nodes.
        origin: where they come from.
        block: elements of `axis` that share a scale; 0 for one each.
    """
    attributes = {} if axis is None else {"axis": axis}
    if block:
        attributes["block_size"] = block
    if zero_point.dtype.bits < 8:  # the carrier type does not tell
        attributes["output_dtype"] = int(zero_point.dtype)
    stored = Value(TensorType(zero_point.dtype, value.shape), f"{value.name}_quantized")
    restored = Value(value.type, f"{value.name}_dequantized")
    quantize = Node("QuantizeLinear", [value, scale, zero_point], attributes, [stored], origin=origin)
    dq_attributes = {name: number for name, number in attributes.items() if name != "output_dtype"}
    dequantize = Node("DequantizeLinear", [stored, scale, zero_point], dq_attributes, [restored], origin=origin)
    if before is not None:
        graph.insert_before(before, quantize)
    elif value.producer is not None:
        graph.insert_after(value.producer, quantize)
    else:
        graph.prepend(quantize)
    graph.insert_after(quantize, dequantize)
    return Pair(quantize, dequantize)


def pairs(graph: Graph) -> Iterator[Pair]:
    """Every Q with a DQ that reads it."""
    for node in graph.nodes:
        if node.op != "QuantizeLinear" or node.domain or node.input(2) is None:
            continue
        reader = next((u for u in node.output.users if u.op == "DequantizeLinear" and not u.domain), None)
        if reader is not None:
            yield Pair(node, reader)


def is_weight(pair: Pair) -> bool:
    """True when a pair quantizes a constant, or what is computed from constants on the way to the quantizer."""
    return _on_the_way(pair.source) is not None


def constant_data(value: Value, through: frozenset[str] = _COMPRESSING) -> torch.Tensor | None:
    """What a constant, or what is computed from constants by operators in `through`, holds; ``None`` for others.

    By default these are the operators that stand between a weight and its quantizer.
    """
    nodes = _on_the_way(value, through)
    if nodes is None:
        return None
    known: dict[Value, torch.Tensor | None] = {}
    for node in reversed(nodes):
        inputs = [None if each is None else known.get(each, each.data) for each in node.inputs]
        with torch.no_grad():
            known.update(zip(node.outputs, execute(node, inputs), strict=False))
    return known.get(value, value.data)


def _on_the_way(value: Value, through: frozenset[str] = _COMPRESSING) -> list[Node] | None:
    """The nodes that compute `value` from constants, last ones first; ``None`` when it depends on anything else."""
    nodes: dict[Node, None] = {}
    waiting = [value]
    while waiting:
        producer = (each := waiting.pop()).producer
        if each.is_constant or producer in nodes:
            continue
        if producer is None or producer.op not in through or producer.domain:
            return None
        nodes[producer] = None
        waiting += [read for read in producer.inputs if read is not None]
    return sorted(nodes, key=cmp_to_key(_later_first))


def _later_first(a: Node, b: Node) -> int:
    return 1 if a.is_before(b) else -1


def activation_pairs(graph: Graph) -> Iterator[Pair]:
    """The pairs of values that depend on the input, with one constant scale each."""
    for pair in pairs(graph):
        if not is_weight(pair) and pair.scale.is_constant and pair.scale.rank == 0:
            yield pair


def strip(graph: Graph) -> int:
    """Takes all Q/DQ pairs out of a graph; what they read takes their place. Returns how many there were."""
    found = list(pairs(graph))
    for pair in found:
        for reader in [user for user in pair.quantize.output.users if user.op == "DequantizeLinear"]:
            reader.output.replace_uses(pair.source)
    graph.sweep([pair.dequantize.output for pair in found])
    return len(found)
