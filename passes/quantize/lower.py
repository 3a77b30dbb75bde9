"""qoperator-to-qdq: quantized operators as pairs around float ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from graphopt.analysis import propagate
from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.pipeline import Changes, Context, Contract, Pass, register

_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class _Form:
    """How a quantized operator reads.

    Attributes:
        op: the float operator that it computes.
        operands: for each of that operator's inputs the positions of tensor, scale and zero point.
        output: positions of scale and zero point of the output.
        axes: dimension of each operand that a vector of scales runs along.
        bias: position of an int32 bias, whose scale is the product of the operands'.
        dropped: attributes that only the quantized operator has.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    output: tuple[int, int]
    axes: tuple[int, ...] = ()
    bias: int | None = None
    dropped: tuple[str, ...] = ()


_BINARY = ((0, 1, 2), (3, 4, 5))
_FORMS: dict[tuple[str, str], _Form] = {
    ("", "QLinearConv"): _Form("Conv", _BINARY, (6, 7), (1, 0), bias=8),
    ("", "QLinearMatMul"): _Form("MatMul", _BINARY, (6, 7), (-2, -1)),
    (_MICROSOFT, "QGemm"): _Form("Gemm", _BINARY, (7, 8), (1, 1), bias=6),
    (_MICROSOFT, "QLinearAdd"): _Form("Add", _BINARY, (6, 7)),
    (_MICROSOFT, "QLinearMul"): _Form("Mul", _BINARY, (6, 7)),
    (_MICROSOFT, "QLinearSigmoid"): _Form("Sigmoid", ((0, 1, 2),), (3, 4)),
    (_MICROSOFT, "QLinearLeakyRelu"): _Form("LeakyRelu", ((0, 1, 2),), (3, 4)),
    (_MICROSOFT, "QLinearAveragePool"): _Form("AveragePool", ((0, 1, 2),), (3, 4), dropped=("channels_last",)),
    (_MICROSOFT, "QLinearGlobalAveragePool"): _Form(
        "GlobalAveragePool", ((0, 1, 2),), (3, 4), dropped=("channels_last",)
    ),
}  # fmt: skip


@register("qoperator-to-qdq")
@dataclass(frozen=True)
class QOperatorToQDQ(Pass):
    """Write quantized operators (QLinearConv, QLinearMatMul, ONNX Runtime's QLinearAdd, ...) as Q/DQ around float ones.

    Files quantized in the QOperator format can then be inspected, pruned, trained, dequantized, and quantized for other
    targets. The numbers stay the same up to the rounding of a step here and there. Operators in ONNX Runtime's own
    memory layout (channels_last) are left as they are.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    looks_for: ClassVar[frozenset[str]] = frozenset({*(op for _, op in _FORMS), "QLinearConcat"})

    def run(self, graph: Graph, context: Context) -> Changes:
        counts: Counter[str] = Counter()
        for node in list(graph.walk()):
            form = _form_of(node)
            if form is None or node.graph is None or node.attributes.get("channels_last"):
                continue
            _Lowering(node.graph, node, form).run()
            counts[node.op] += 1
        propagate(graph)
        return Changes(bool(counts), counts=dict(counts))


def _form_of(node: Node) -> _Form | None:
    if (node.domain, node.op) == (_MICROSOFT, "QLinearConcat"):
        operands = tuple((i, i + 1, i + 2) for i in range(2, len(node.inputs), 3))
        return _Form("Concat", operands, (0, 1))
    return _FORMS.get((node.domain, node.op))


class _Lowering:
    """Writes one operator as pairs."""

    def __init__(self, graph: Graph, node: Node, form: _Form) -> None:
        self.graph = graph
        self.node = node
        self.form = form
        self.origin = node.origin.touched_by(QOperatorToQDQ.name)

    def run(self) -> None:
        node, form = self.node, self.form
        operands = [self._real(*each, self._axis(number)) for number, each in enumerate(form.operands)]
        bias = node.input(form.bias) if form.bias is not None else None
        if bias is not None:
            operands.append(self._bias(bias))
        attributes = {name: value for name, value in node.attributes.items() if name not in form.dropped}
        result = self._op(form.op, operands, attributes, TensorType(DType.FLOAT32, node.output.shape))
        scale, zero = (node.input(place) for place in form.output)
        if scale is not None:
            kind = TensorType(DType.UINT8 if zero is None else zero.dtype, node.output.shape)
            result = self._op(
                "QuantizeLinear", [result, _scalar(self.graph, scale), _scalar(self.graph, zero)], {}, kind
            )
        read = [value for value in node.inputs if value is not None]
        node.output.replace_uses(result)
        self.graph.erase(node)
        self.graph.sweep(read)

    def _axis(self, number: int) -> int:
        if self.node.op == "QGemm" and number == 1:
            return 0 if self.node.attributes.get("transB") else 1
        return self.form.axes[number] if self.form.axes else 1

    def _real(self, tensor: int, scale: int, zero: int, axis: int) -> Value:
        x, factor, shift = self.node.operand(tensor), self.node.operand(scale), self.node.input(zero)
        rank = x.rank or 1
        vector = factor.rank == 1 and factor.shape != (1,)
        operands = [
            x,
            factor if vector else _scalar(self.graph, factor),
            shift if vector else _scalar(self.graph, shift),
        ]
        attributes = {"axis": axis % rank} if vector else {}
        return self._op("DequantizeLinear", operands, attributes, TensorType(DType.FLOAT32, x.shape))

    def _bias(self, bias: Value) -> Value:
        """The int32 bias, whose scale is that of the products."""
        factors = [self.node.operand(scale) for _, scale, _ in self.form.operands]
        if all(factor.data is not None for factor in factors):
            data = torch.ones(())
            for factor in factors:
                data = data * factor.data if factor.data is not None else data
            step = self.graph.add_constant(data.reshape(()) if data.numel() == 1 else data, f"{bias.name}_scale")
        else:
            step = self._op("Mul", factors, {}, TensorType(DType.FLOAT32, factors[1].shape))
        attributes = {"axis": 0} if step.rank == 1 else {}
        return self._op("DequantizeLinear", [bias, step], attributes, TensorType(DType.FLOAT32, bias.shape))

    def _op(
        self, kind: str, operands: Sequence[Value | None], attributes: Mapping[str, Any], type: TensorType
    ) -> Value:
        made = Value(type, f"{self.node.output.name}_{kind.lower()}")
        node = Node(kind, list(operands), dict(attributes), [made], origin=self.origin)
        return self.graph.insert_before(self.node, node).output


def _scalar(graph: Graph, value: Value | None) -> Value | None:
    """A scale or zero point of one element without dimensions, as pairs have it."""
    if value is None or value.rank == 0 or value.data is None or value.data.numel() != 1:
        return value
    return graph.add_constant(value.data.reshape(()), value.name, dtype=value.dtype)
