"""use-matmul-nbits: products with blocked weights as ONNX Runtime's own operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ops import attribute
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import load_target

_BITS = (4, 8)
#: ONNX Runtime takes blocks that are powers of two from here on.
_LEAST_BLOCK = 16


@register("use-matmul-nbits")
@dataclass(frozen=True)
class UseMatMulNBits(Pass):
    """Write MatMul with a blocked weight of 4 or 8 bits as com.microsoft MatMulNBits, where the target asks for it.

    ONNX Runtime does so by itself when it loads a model, rounding activations to 8 bits on the way. In the file it is
    explicit, works for execution providers that do not look for pairs, and leaves the choice of rounding.

    Attributes:
        accuracy_level: how products may be computed: 0 as ONNX Runtime likes, 1 in float32, 2 in float16, 4 in int8.
        target: name of a target, or the path of a TOML file; nothing happens unless its weight_only is MatMulNBits.
    """

    contract: ClassVar[Contract] = Contract.EXACT
    looks_for: ClassVar[frozenset[str]] = frozenset({"DequantizeLinear"})

    accuracy_level: int = 0
    target: str = "generic"

    def __post_init__(self) -> None:
        load_target(self.target)

    def run(self, graph: Graph, context: Context) -> Changes:
        if load_target(self.target).weight_only != "MatMulNBits":
            return Changes(False)
        count = sum(self._rewrite(node) for node in list(graph.walk()))
        return Changes(count > 0, counts={"MatMulNBits": count})

    def _rewrite(self, node: Node) -> bool:
        if node.op != "MatMul" or node.domain or node.graph is None:
            return False
        dequantize = node.operand(1).producer
        if dequantize is None or not _fits(dequantize):
            return False
        graph, name = node.graph, dequantize.operand(0).name
        stored, scale, zero = (None if value is None else value.data for value in _inputs(dequantize))
        assert stored is not None and scale is not None, "checked by _fits"
        bits, block = dequantize.operand(0).dtype.bits, int(attribute(dequantize, "block_size"))
        shift = 2 ** (bits - 1) if not dequantize.operand(0).dtype.name.startswith("UINT") else 0
        rows, columns = stored.shape
        operands = [
            node.operand(0),
            graph.add_constant(_packed(stored.to(torch.int32) + shift, bits, block), f"{name}_bytes"),
            graph.add_constant(scale.T.contiguous(), f"{name}_scales"),
        ]
        if zero is None or bool((zero.to(torch.int32) + shift != 2 ** (bits - 1)).any()):
            points = torch.full_like(scale, shift).to(torch.int32) if zero is None else zero.to(torch.int32) + shift
            operands.append(graph.add_constant(_packed(points, bits, 0).reshape(-1), f"{name}_zero_points"))
        made = Node(
            "MatMulNBits", operands,
            {"K": rows, "N": columns, "bits": bits, "block_size": block, "accuracy_level": self.accuracy_level},
            [Value(TensorType(node.output.dtype, node.output.shape), node.output.name)],
            domain="com.microsoft", origin=node.origin.touched_by(self.name),
        )  # fmt: skip
        graph.insert_before(node, made)
        node.output.replace_uses(made.output)
        graph.sweep([node.output])
        return True


def _inputs(dequantize: Node) -> tuple[Value | None, Value | None, Value | None]:
    return dequantize.operand(0), dequantize.operand(1), dequantize.input(2)


def _fits(dequantize: Node) -> bool:
    """True for constants [K, N] of 4 or 8 bits in blocks along K that ONNX Runtime takes."""
    if dequantize.op != "DequantizeLinear" or dequantize.domain:
        return False
    block, stored = int(attribute(dequantize, "block_size")), dequantize.operand(0)
    if block < _LEAST_BLOCK or block & (block - 1) or stored.rank != 2 or int(attribute(dequantize, "axis")) % 2:
        return False
    constant = all(value is None or value.data is not None for value in _inputs(dequantize))
    return constant and stored.dtype.is_integer and stored.dtype.bits in _BITS


def _packed(codes: torch.Tensor, bits: int, block: int) -> torch.Tensor:
    """Codes [rows, columns] as bytes, lowest bits first, by column: [columns, blocks, bytes], or [columns, bytes]."""
    data = codes.T.contiguous()
    count = data.shape[1]
    per_byte = 8 // bits
    wanted = -(-count // block) * block if block else -(-count // per_byte) * per_byte
    data = torch.nn.functional.pad(data, (0, wanted - count)).reshape(data.shape[0], -1, per_byte)
    shifts = torch.arange(0, 8, bits, dtype=torch.int32)
    packed = (data << shifts).sum(-1).to(torch.uint8)
    return packed.reshape(packed.shape[0], -1, block * bits // 8) if block else packed
