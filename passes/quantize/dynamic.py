"""quantize-dynamic: weights in integers, activations quantized while the model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.analysis import propagate
from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, Value
from graphopt.ops import attribute
from graphopt.ops.quant import quantize
from graphopt.passes.quantize.placement import is_named
from graphopt.passes.quantize.scales import weight_parameters
from graphopt.passes.quantize.sites import gather_weights
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import Scheme, Target, constant_source, load_target

_MICROSOFT = "com.microsoft"


@register("quantize-dynamic")
@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Multiply in integers with scales of activations found at run time: no calibration data, small files.

    Products with a constant (MatMul, Gemm) become DynamicQuantizeLinear, MatMulInteger and a multiplication by the
    scales, which ONNX Runtime fuses; LSTM becomes ONNX Runtime's DynamicQuantizeLSTM where the target says so. It pays
    where weights are large and activations few (transformers and recurrent networks at small batches). Convolutions
    stay float: finding their scales costs more than it saves.

    Attributes:
        target: name of a target, or the path of a TOML file, for the scheme of weights (7 bits without VNNI) and for
            what it makes of LSTM.
        per_channel: a scale for each output of a product instead of one for the weight.
        ignore: patterns of node, module or tensor names that stay float.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE

    target: str = "ort-cpu"
    per_channel: bool = True
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        load_target(self.target)

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        target = load_target(self.target)
        if target.dynamic_lstm:
            gather_weights(graph, target)
        counts: Counter[str] = Counter()
        inputs: dict[Value, tuple[Value, Value, Value]] = {}
        for node in list(graph.walk()):
            if node.domain or any(is_named(node, pattern) for pattern in self.ignore):
                continue
            if self._convert(node, target, inputs):
                counts[node.op] += 1
        if not counts:
            raise PassError(
                "there is no product with a constant float32 weight", where=self.name,
                hint="quantize-weights makes other weights smaller; quantize multiplies in integers",
            )  # fmt: skip
        propagate(graph)
        return Changes(True, counts=dict(counts))

    def _convert(self, node: Node, target: Target, inputs: dict[Value, tuple[Value, Value, Value]]) -> bool:
        if node.op in ("MatMul", "Gemm"):
            return self._product(node, target, inputs)
        return node.op == "LSTM" and target.dynamic_lstm and self._lstm(node, target)

    def _product(self, node: Node, target: Target, inputs: dict[Value, tuple[Value, Value, Value]]) -> bool:
        weight = _matrix(node)
        graph, x = node.graph, node.operand(0)
        if weight is None or graph is None or x.dtype is not DType.FLOAT32 or x.is_constant:
            return False
        origin, name = node.origin.touched_by(self.name), node.operand(1).name
        axis = 1 if self.per_channel else None
        scheme = Scheme(DType.INT8, symmetric=True, bits=target.weight.bits)
        scale, zero = weight_parameters(weight, axis, scheme)
        stored = graph.add_constant(quantize(weight, scale, zero, axis=1), f"{name}_integers")
        step = graph.add_constant(scale, f"{name}_scale")

        def op(kind: str, operands: Sequence[Value], outputs: int = 1, **attributes: int) -> list[Value]:
            made = [Value(name=f"{node.output.name}_{kind.lower()}_{i}") for i in range(outputs)]
            graph.insert_before(node, Node(kind, list(operands), dict(attributes), made, origin=origin))
            return made

        if x not in inputs or inputs[x][0].graph is not graph:
            stored_x, x_scale, x_zero = op("DynamicQuantizeLinear", [x], 3)
            inputs[x] = (stored_x, x_scale, x_zero)
        stored_x, x_scale, x_zero = inputs[x]
        (total,) = op("MatMulInteger", [stored_x, stored, x_zero])
        (real,) = op("Cast", [total], to=int(DType.FLOAT32))
        (result,) = op("Mul", [real, op("Mul", [x_scale, step])[0]])
        bias = node.input(2) if node.op == "Gemm" else None
        if bias is not None:
            (result,) = op("Add", [result, bias])
        _take_over(graph, node, [result])
        return True

    def _lstm(self, node: Node, target: Target) -> bool:
        graph = node.graph
        weights = [node.operand(i) for i in (1, 2)]
        if graph is None or any(not w.is_constant or w.data is None for w in weights):
            return False
        scheme = Scheme(DType.INT8, symmetric=True, bits=target.weight.bits)
        operands: list[Value | None] = [node.input(i) for i in range(8)]
        for place, weight in enumerate(weights):
            assert weight.data is not None, "checked above"
            data = weight.data.detach().float().transpose(1, 2).contiguous()  # [directions, inputs, gates * hidden]
            flat = data.movedim(1, 0).reshape(data.shape[1], -1)  # one scale per direction and gate
            scale, zero = weight_parameters(flat, 1, scheme)
            integers = quantize(flat, scale, zero, axis=1).reshape(data.shape[1], data.shape[0], -1).movedim(1, 0)
            shape = (data.shape[0], data.shape[2])
            operands[1 + place] = graph.add_constant(integers.contiguous(), f"{weight.name}_integers")
            operands.append(graph.add_constant(scale.reshape(shape), f"{weight.name}_scale"))
            operands.append(graph.add_constant(zero.reshape(shape), f"{weight.name}_zero_point"))
        origin = node.origin.touched_by(self.name)

        def turned(value: Value, permutation: tuple[int, ...]) -> Value:
            made = Node(
                "Transpose", [value], {"perm": permutation}, [Value(name=f"{value.name}_turned")], origin=origin
            )
            return graph.insert_before(node, made).output

        # ONNX Runtime's operator has time first; other layouts are turned on the way in and out.
        batch_first = bool(node.attributes.get("layout"))
        for place in (0, 5, 6) if batch_first else ():
            value = operands[place]
            operands[place] = None if value is None else turned(value, (1, 0, 2))
        outputs = [Value(name=f"{value.name}_dynamic") for value in node.outputs]
        attributes = {name: value for name, value in node.attributes.items() if name != "layout"}
        made = Node("DynamicQuantizeLSTM", operands, attributes, outputs, domain=_MICROSOFT, origin=origin)
        graph.insert_before(node, made)
        back = [(2, 0, 1, 3), (1, 0, 2), (1, 0, 2)] if batch_first else []
        results = [
            turned(value, back[i]) if back and node.outputs[i].uses else value for i, value in enumerate(outputs)
        ]
        _take_over(graph, node, results)
        return True


def _matrix(node: Node) -> torch.Tensor | None:
    """The weight [K, N] that a product multiplies with, when it is constant and nothing is scaled or turned besides."""
    source = constant_source(node.operand(1))
    if source is None or source[0].data is None or source[0].rank != 2 or source[0].dtype is not DType.FLOAT32:
        return None
    if node.op == "Gemm" and (
        attribute(node, "transA") or attribute(node, "alpha") != 1 or attribute(node, "beta") != 1
    ):
        return None
    data = source[0].data.detach()
    turned = (len(source[1]) % 2 == 1) != (node.op == "Gemm" and bool(attribute(node, "transB")))
    return data.T.contiguous() if turned else data


def _take_over(graph: Graph, node: Node, results: Sequence[Value]) -> None:
    """Has `results` read in place of the node's outputs, and removes the node with what only it needed."""
    read = [value for value in node.inputs if value is not None]
    for old, new in zip(node.outputs, results, strict=True):
        new.type = old.type
        old.replace_uses(new)
    graph.erase(node)
    graph.sweep(read)
