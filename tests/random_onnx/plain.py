"""Graphs as ONNX models, written without graphopt's backend: a bug there must not reach both sides of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from graphopt.ir import DType, Graph, Node, Value
from graphopt.ir import dims as D

_SUB_BYTE = (DType.INT4, DType.UINT4, DType.INT2, DType.UINT2)


class Writer:
    """Writes a graph as it stands, at the opset that is asked for.

    Constants become initializers or Constant nodes of all forms, nodes get names and doc strings, or none, by turns.

    Args:
        opset: of the standard operators; whether it has the operators in this form is the caller's business.
        defaults: constants that are to be inputs as well, which callers may leave out.
    """

    def __init__(self, opset: int, defaults: Sequence[Value] = ()) -> None:
        self.opset = opset
        self._defaults = frozenset(defaults)
        self._names: dict[Value, str] = {}
        self._turn = 0

    def model(self, graph: Graph) -> onnx.ModelProto:
        """The model of an outermost graph. Outputs have element types and ranks, but no extents."""
        inputs = [
            helper.make_tensor_value_info(self._name(v), int(v.dtype), [_size(d) for d in v.shape or ()])
            for v in graph.inputs
        ]
        weights, made = self._constants(graph)
        nodes = [*made, *(self._node(each) for each in graph.nodes)]
        inputs += [_info(v, self._name(v)) for v in graph.constants if v in self._defaults]
        outputs = [
            helper.make_tensor_value_info(self._name(v), int(v.dtype), [None] * (v.rank or 0)) for v in graph.outputs
        ]
        proto = helper.make_graph(nodes, "random", inputs, outputs, weights)
        domains = {node.domain for node in graph.walk()} - {""}
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, _version(d)) for d in sorted(domains))]
        return helper.make_model(proto, opset_imports=opsets, ir_version=_ir_version(self.opset))

    def _node(self, node: Node) -> onnx.NodeProto:
        operands, plain = form_at(node, self.opset)
        attributes = {name: self._attribute(value) for name, value in plain.items()}
        reads = [self._name(v) if v is not None else "" for v in operands]
        outputs = [self._name(v) if v.uses or v.name != "-" else "" for v in node.outputs]
        self._turn += 1
        name = f"node{self._turn}" if self._turn % 3 else None
        doc = f"made in turn {self._turn}" if self._turn % 5 == 0 else None
        return helper.make_node(node.op, reads, outputs, name, doc, node.domain, **attributes)

    def _constants(self, graph: Graph) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
        """Initializers and Constant nodes."""
        weights, nodes = [], []
        for value in graph.constants:
            if not value.uses:
                continue
            self._turn += 1
            name = self._name(value)
            if self._turn % 4 or value in self._defaults:
                weights.append(_tensor(value, name))
            else:
                nodes.append(helper.make_node("Constant", [], [name], **_constant_attribute(value, self.opset)))
        return weights, nodes

    def _attribute(self, value: Any) -> Any:
        if isinstance(value, Graph):
            return self._body(value)
        if isinstance(value, torch.Tensor):
            return numpy_helper.from_array(value.numpy())
        return list(value) if isinstance(value, tuple) else value

    def _body(self, body: Graph) -> onnx.GraphProto:
        inputs = [
            helper.make_tensor_value_info(self._name(v), int(v.dtype), [None] * (v.rank or 0)) for v in body.inputs
        ]
        weights, made = self._constants(body)
        nodes = [*made, *(self._node(each) for each in body.nodes)]
        outputs = [helper.make_tensor_value_info(self._name(v), int(v.dtype), None) for v in body.outputs]
        return helper.make_graph(nodes, f"body{len(self._names)}", inputs, outputs, weights)

    def _name(self, value: Value) -> str:
        return self._names.setdefault(value, value.name if value.is_input and value.name else f"v{len(self._names)}")


def form_at(node: Node, opset: int) -> tuple[Sequence[Value | None], dict[str, Any]]:
    """Operands and attributes: what is a constant operand now was an attribute before some opset."""
    operands, attributes = list(node.inputs), dict(node.attributes)
    since = 13 if node.op == "ReduceSum" else 18 if node.op.startswith("Reduce") else _OPERAND_SINCE.get(node.op, 0)
    if opset < since and len(operands) == 2:
        held = operands[1]
        if held is not None and held.data is not None:
            attributes["split" if node.op == "Split" else "axes"] = tuple(held.data.tolist())
            operands.pop()
    return operands, attributes


_OPERAND_SINCE = {"Squeeze": 13, "Unsqueeze": 13, "Split": 13}


def _info(value: Value, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, int(value.dtype), [_size(d) for d in value.shape or ()])


def _constant_attribute(value: Value, opset: int) -> dict[str, Any]:
    """The attribute that holds a constant: a number, numbers, or a tensor."""
    data = value.data
    kind = {DType.INT64: "int", DType.FLOAT32: "float"}.get(value.dtype)
    if data is None or kind is None or data.dim() > 1 or not data.numel() or opset < 12:
        return {"value": _tensor(value, "")}
    return {f"value_{kind}s": data.tolist()} if data.dim() else {f"value_{kind}": data.item()}


def _size(dim: D.Dim) -> int | str | None:
    return dim if isinstance(dim, int) else None if dim is None else D.format_dim(dim)


def _tensor(value: Value, name: str) -> onnx.TensorProto:
    data = value.data
    if data is None:
        assert value.strings is not None
        return helper.make_tensor(name, onnx.TensorProto.STRING, value.strings.shape, list(value.strings.reshape(-1)))
    if value.dtype in _SUB_BYTE:
        return helper.make_tensor(name, int(value.dtype), data.shape, data.reshape(-1).tolist())
    return numpy_helper.from_array(data.numpy(), name)


def _version(domain: str) -> int:
    return {"ai.onnx.ml": 3, "com.microsoft": 1}[domain]


def _ir_version(opset: int) -> int:
    """The oldest file format that goes with an opset, but none that ONNX Runtime is too old for."""
    return min(11, max(8, helper.find_min_ir_version_for([helper.make_opsetid("", opset)])))


# -- what ONNX Runtime can execute


def is_runnable(node: Node, opset: int) -> bool:
    """Whether ONNX's checker accepts the node's form at `opset`, and ONNX Runtime has a kernel for its types.

    Nodes with bodies are: what is in the body has been asked for before.
    """
    if node.bodies:
        return True
    operands, plain = form_at(node, opset)
    types = tuple(0 if v is None else _kind(v) for v in operands)
    if any(kind is None for kind in (*types, *map(_kind, node.outputs))):
        return True  # sequences and optionals: nothing to choose there
    attributes = {k: v for k, v in plain.items() if not isinstance(v, torch.Tensor)}
    makes = tuple(_kind(v) or 0 for v in node.outputs)
    # Kernels are registered by types: the values of attributes do not matter.
    key = (node.op, node.domain, types, makes, tuple(sorted(attributes)), opset)
    if key not in _runnable:
        _runnable[key] = _probe(node.op, node.domain, types, makes, attributes, opset)
    return _runnable[key]


_runnable: dict[Any, bool] = {}


def _kind(value: Value) -> int | None:
    return int(value.dtype) if value.dtype is not DType.UNDEFINED else None


def _probe(op: str, domain: str, reads: Any, makes: Any, attributes: dict[str, Any], opset: int) -> bool:
    """Opens a model of one node."""

    def info(prefix: str, kinds: Any) -> Iterator[onnx.ValueInfoProto]:
        for index, kind in enumerate(kinds):
            if kind:
                yield helper.make_tensor_value_info(f"{prefix}{index}", kind, None)

    node = helper.make_node(
        op, [f"x{i}" if kind else "" for i, kind in enumerate(reads)], [f"y{i}" for i in range(len(makes))],
        domain=domain, **{k: list(v) if isinstance(v, tuple) else v for k, v in attributes.items()},
    )  # fmt: skip
    graph = helper.make_graph([node], "probe", list(info("x", reads)), list(info("y", makes)))
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, _version(domain))] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_ir_version(opset))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = model.ir_version, {each.domain: each.version for each in opsets}
    try:
        onnx.checker.check_node(node, context)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's exceptions have no common base class
        return False
    return True
