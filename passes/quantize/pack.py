"""pack-weights: quantized weights and biases stored as integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.ops import attribute, execute
from graphopt.passes.quantize.pairs import constant_data, pairs
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import Target, load_target


@register("pack-weights")
@dataclass(frozen=True)
class PackWeights(Pass):
    """Store quantized weights as integers behind DequantizeLinear, and biases as the target wants them.

    A bias becomes int32 with scale s_x * s_w and zero point 0, which integer kernels add without rescaling. After this
    the weights can no longer be trained.

    Attributes:
        target: name of a target, or the path of a TOML file.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    target: str = "ort-cpu"

    def __post_init__(self) -> None:
        load_target(self.target)

    def run(self, graph: Graph, context: Context) -> Changes:
        target = load_target(self.target)
        packed = _pack_constants(graph)
        moved = _fold_transposes(graph)
        biases = _pack_biases(graph, target) if target.bias is not None else 0
        shaped = _shape_biases(graph, target)
        counts = {"weights": packed, "transposes": moved, "biases": biases, "bias shapes": shaped}
        return Changes(any(counts.values()), counts=counts)


def _pack_constants(graph: Graph) -> int:
    count = 0
    for pair in pairs(graph):
        inputs = [None if value is None else constant_data(value) for value in pair.quantize.inputs]
        if any(value is not None and data is None for value, data in zip(pair.quantize.inputs, inputs, strict=True)):
            continue
        data = execute(pair.quantize, inputs)[0]
        stored = graph.add_constant(data, pair.quantize.output.name, dtype=pair.zero_point.dtype)
        pair.quantize.output.replace_uses(stored)
        _inherit(graph, stored, pair.source, pair.quantize.output)
        count += 1
    return count


def _fold_transposes(graph: Graph) -> int:
    """``Transpose(DequantizeLinear(constant))`` becomes the DequantizeLinear of a transposed constant."""
    count = 0
    for node in graph.nodes:
        if node.op != "Transpose" or node.domain:
            continue
        dequantize = node.operand(0).producer
        if dequantize is None or dequantize.op != "DequantizeLinear" or len(dequantize.output.uses) != 1:
            continue
        stored = dequantize.operand(0)
        if not stored.is_constant or stored.data is None:
            continue
        permutation = node.attributes.get("perm") or tuple(reversed(range(stored.data.dim())))
        data = stored.data.permute(permutation).contiguous()
        dequantize.set_input(0, graph.add_constant(data, stored.name, dtype=stored.dtype))
        _permute_parameters(graph, dequantize, permutation)
        dequantize.output.type = node.output.type
        node.output.replace_uses(dequantize.output)
        graph.erase(node)
        graph.sweep([stored])
        count += 1
    return count


def _permute_parameters(graph: Graph, dequantize: Node, permutation: Sequence[int]) -> None:
    """Has a DequantizeLinear find its scales where its input's dimensions are permuted."""
    axis = int(attribute(dequantize, "axis")) % len(permutation)
    blocked = bool(attribute(dequantize, "block_size"))
    if not blocked and dequantize.operand(1).rank != 1:
        return
    dequantize.attributes["axis"] = permutation.index(axis)
    for index in (1, 2) if blocked else ():
        value = dequantize.input(index)
        if value is not None and value.data is not None:
            data = value.data.permute(tuple(permutation)).contiguous()
            dequantize.set_input(index, graph.add_constant(data, value.name, dtype=value.dtype))
            graph.sweep([value])


def _shape_biases(graph: Graph, target: Target) -> int:
    """Gives constants that are added to float outputs of integer kernels the output's rank, where the target asks."""
    count = 0
    for node in graph.nodes:
        rule = target.rule(node)
        if rule is None or not rule.full_rank_bias or _scale_behind(node.input(1)) is None:
            continue
        for use in list(node.output.uses):
            if not isinstance(use.user, Node) or use.user.op != "Add" or use.user.domain:
                continue
            added, rank = use.user.operand(1 - use.index), node.output.rank
            if added.is_constant and added.data is not None and added.rank is not None and added.rank < (rank or 0):
                data = added.data.reshape([1] * ((rank or 0) - added.rank) + list(added.data.shape))
                use.user.set_input(1 - use.index, graph.add_constant(data, added.name, dtype=added.dtype))
                graph.sweep([added])
                count += 1
    return count


def _pack_biases(graph: Graph, target: Target) -> int:
    count = 0
    for node in graph.nodes:
        rule = target.operators.get(node.op) if not node.domain else None
        if rule is None or "bias" not in rule.inputs:
            continue
        index = rule.inputs.index("bias")
        bias = node.input(index)
        scales = [
            _scale_behind(node.input(i)) for i, role in enumerate(rule.inputs) if role in ("activation", "weight")
        ]
        if bias is None or not bias.is_constant or not bias.dtype.is_float or any(s is None for s in scales):
            continue
        scale = torch.ones(())
        for each in scales:
            scale = scale * each if each is not None else scale
        count += _pack_bias(graph, node, index, bias, scale)
    return count


def _scale_behind(value: Value | None) -> torch.Tensor | None:
    producer = value.producer if value is not None else None
    if producer is None or producer.op != "DequantizeLinear" or producer.domain:
        return None
    scale = producer.operand(1)
    return scale.data if scale.is_constant and (scale.rank or 0) <= 1 else None


def _pack_bias(graph: Graph, node: Node, index: int, bias: Value, scale: torch.Tensor) -> bool:
    data = bias.data
    if data is None or data.dim() != 1 or (scale.dim() == 1 and scale.numel() != data.numel()):
        return False
    stored = (data.double() / scale.double()).round()
    limit = 2**31 - 1
    if float(stored.abs().max()) > limit:  # a dead channel's scale is tiny; its bias would not fit
        return False
    per_channel = scale.dim() == 1
    integers = graph.add_constant(stored.to(torch.int32), f"{bias.name}_quantized")
    scale_value = graph.add_constant(scale.contiguous(), f"{bias.name}_scale")
    zero = graph.add_constant(torch.zeros(scale.shape, dtype=torch.int32), f"{bias.name}_zero_point")
    attributes = {"axis": 0} if per_channel else {}
    restored = Value(TensorType(DType.FLOAT32, tuple(data.shape)), f"{bias.name}_dequantized")
    dequantize = Node(
        "DequantizeLinear", [integers, scale_value, zero], attributes, [restored],
        origin=node.origin.touched_by(PackWeights.name),
    )  # fmt: skip
    graph.insert_before(node, dequantize)
    node.set_input(index, restored)
    _inherit(graph, integers, bias, bias)
    return True


def _inherit(graph: Graph, stored: Value, source: Value, left: Value) -> None:
    """Removes `left`, and with it what nothing else reads; the integers are then the module's parameter."""
    roots = _roots(source)
    graph.sweep([left])
    gone = [root.parameter for root in roots if root.graph is None and root.parameter is not None]
    if gone:
        stored.parameter = gone[0]


def _roots(value: Value) -> list[Value]:
    """The constants that a value is computed from."""
    if value.producer is None:
        return [value]
    return [root for each in value.producer.inputs if each is not None for root in _roots(each)]
