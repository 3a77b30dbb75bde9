"""Q/DQ pairs: making them, finding them, reading their scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from graphopt.ir import Graph, Node, Origin, TensorType, Value
from graphopt.targets import Scheme


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


def activation_pairs(graph: Graph) -> Iterator[Pair]:
    """The pairs of values that depend on the input, with one constant scale each."""
    for pair in pairs(graph):
        if not pair.source.is_constant and pair.scale.is_constant and pair.scale.rank == 0:
            yield pair
