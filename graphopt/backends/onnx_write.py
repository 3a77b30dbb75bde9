"""Graphs as ONNX messages, the weights of the outermost graph kept apart."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from graphopt.backends.onnx_attributes import AttributeWriter
from graphopt.backends.onnx_forms import form_at
from graphopt.backends.onnx_interface import declared_outputs
from graphopt.backends.onnx_names import Names
from graphopt.backends.onnx_opset import OpVersion, trimmed, version_at, written_outputs
from graphopt.ir import UNKNOWN, DType, Graph, Node, TensorType, Value, ValueType
from graphopt.ir.literals import SparseTensor
from graphopt.ops import torch_notes
from graphopt.ops.protos import BORDER, DEVICES, QUANTIZATION, tensor_header, write_sparse, write_tensor, write_type
from graphopt.ops.sparse import SPARSE, sparse_form

#: Constants above this many bytes are weights: nothing in ONNX reads their contents to know a shape.
BULK = 1024

# The first IR version that has an element type.
_TYPE_IR = {
    DType.FLOAT8E4M3FN: 9, DType.FLOAT8E4M3FNUZ: 9, DType.FLOAT8E5M2: 9, DType.FLOAT8E5M2FNUZ: 9, DType.INT4: 10,
    DType.UINT4: 10, DType.FLOAT4E2M1: 11, DType.FLOAT8E8M0: 12, DType.INT2: 13, DType.UINT2: 13,
}  # fmt: skip


@dataclass
class Weight:
    """An initializer of the outermost graph.

    Attributes:
        proto: the message; without data where `data` is given.
        data: the elements of a large one.
        dtype: their element type.
    """

    proto: onnx.TensorProto
    data: torch.Tensor | None = None
    dtype: DType = DType.UNDEFINED


@dataclass
class Draft:
    """A model whose outermost initializers are not yet in it.

    Attributes:
        model: everything else.
        weights: the initializers, in order.
    """

    model: onnx.ModelProto
    weights: list[Weight] = field(default_factory=list)


def draft_model(graph: Graph, opset: int, sparse: bool = False) -> Draft:
    """Writes a graph at `opset`, which must be able to express it (see `onnx_opset.possible_opsets`).

    Args:
        graph: is not changed.
        opset: of the standard operators.
        sparse: write large weights as sparse tensors where these are smaller.

    Raises:
        SaveError: names clash, an attribute has no form in ONNX, or a constant has no data.
    """
    return _Writer(graph, opset, sparse).draft()


class _Writer:
    def __init__(self, graph: Graph, opset: int, sparse: bool) -> None:
        self._graph = graph
        self._opset = opset
        self._sparse: dict[Value, SparseTensor] = _sparse_weights(graph) if sparse else {}
        self._names = Names(graph)
        self._attributes = AttributeWriter(self._body)
        self._weights: list[Weight] = []
        self._domains: dict[str, int] = {}
        self._versions: dict[tuple[str, str], OpVersion | None] = {}
        self._dtypes: set[DType] = set()
        self._absorbed: dict[Value, int] = {}

    def draft(self) -> Draft:
        info = self._graph.model
        model = onnx.ModelProto.FromString(info.rest)
        self._write(self._graph, model.graph)
        for raw in info.functions:
            model.functions.add().ParseFromString(raw)
        model.opset_import.add(domain="", version=self._opset)
        for domain, version in {**self._domains, **info.domains}.items():
            model.opset_import.add(domain=domain, version=version)
        model.ir_version = self._ir_version(model)
        model.producer_name = info.producer_name if info.ir_version else "graphopt"
        model.producer_version = info.producer_version
        model.domain, model.doc_string = info.domain, info.doc
        model.model_version = info.model_version
        _set_metadata(model.metadata_props, info.metadata)
        note = torch_notes.signature_note(self._graph.signature)
        if note is not None:
            model.metadata_props.add(key=torch_notes.SIGNATURE, value=note)
        return Draft(model, self._weights)

    def _ir_version(self, model: onnx.ModelProto) -> int:
        needed = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
        needed = max([needed, *(_TYPE_IR.get(dtype, 0) for dtype in self._dtypes)])
        if model.functions:
            needed = max(needed, 10 if any(f.overload for f in model.functions) else 8)
        return min(max(needed, self._graph.model.ir_version), max(needed, onnx.IR_VERSION))

    # -- graphs

    def _body(self, body: Graph) -> onnx.GraphProto:
        proto = onnx.GraphProto()
        self._write(body, proto)
        return proto

    def _write(self, graph: Graph, proto: onnx.GraphProto) -> None:
        proto.name = graph.name or "main"
        proto.doc_string = graph.doc
        _set_metadata(proto.metadata_props, graph.metadata)
        for value in graph.inputs:
            self._value_info(proto.input, value, self._names.of[value])
            if value._data is not None:
                self._initializer(graph, proto, value)
        for value in graph.constants:
            if value in self._names.returned or value in self._sparse:
                self._constant_node(proto, value)
        labels: dict[str, int] = {}
        for node in graph.nodes:
            self._node(node, proto, labels)
        for source, name in self._names.borders[graph]:
            border = proto.node.add(op_type="Identity", input=[self._names.of[source]], output=[name])
            border.metadata_props.add(key=BORDER, value="")
        for value in graph.constants:
            if self._is_written(value):
                self._initializer(graph, proto, value)
        declared = declared_outputs(graph) if graph is self._graph else {}
        for value, name in zip(graph.outputs, self._names.outputs[graph], strict=True):
            self._value_info(proto.output, value, name, declared.get(name))
        self._annotate(graph, proto)

    def _constant_node(self, proto: onnx.GraphProto, value: Value) -> None:
        node = proto.node.add(op_type="Constant", output=[self._names.of[value]])
        node.doc_string = value.doc
        _set_metadata(node.metadata_props, {**_public(value.metadata), **dict(torch_notes.value_notes(value))})
        self._dtypes.add(value.dtype)
        if value in self._sparse:
            held = write_sparse(self._sparse[value])
            node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(held)
            node.metadata_props.add(key=SPARSE, value="")
            return
        tensor = write_tensor(_elements(value), dtype=value.dtype)
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)

    def _is_written(self, value: Value) -> bool:
        """Whether a constant becomes an initializer.

        A parameter that nothing reads does not, nor does an input that went into attributes at this opset.
        """
        if value in self._names.returned or value in self._sparse:
            return False
        if not value.uses:
            return value.parameter is None
        return self._absorbed.get(value, 0) < len(value.uses)

    def _initializer(self, graph: Graph, proto: onnx.GraphProto, value: Value) -> None:
        name, data = self._names.of[value], _elements(value)
        dtype = value.dtype if value.dtype is not DType.UNDEFINED else TensorType.of(value.data).dtype  # type: ignore[arg-type]  # it has some
        self._dtypes.add(dtype)
        if graph is self._graph and isinstance(data, torch.Tensor) and data.numel() * dtype.bits > 8 * BULK:
            weight = Weight(tensor_header(data.shape, dtype, name), data, dtype)
        else:
            weight = Weight(write_tensor(data, name, dtype))
        if not value.is_input:
            weight.proto.doc_string = value.doc
            _set_metadata(
                weight.proto.metadata_props, {**_public(value.metadata), **dict(torch_notes.value_notes(value))}
            )
        if graph is self._graph:
            self._weights.append(weight)
        else:
            proto.initializer.append(weight.proto)

    def _value_info(
        self,
        container: RepeatedCompositeFieldContainer[onnx.ValueInfoProto],
        value: Value,
        name: str,
        declared: ValueType | None = None,
    ) -> None:
        info = container.add(name=name)
        kind = declared or value.type
        if kind != UNKNOWN and not (isinstance(kind, TensorType) and kind.dtype is DType.UNDEFINED):
            info.type.CopyFrom(write_type(kind))
            self._dtypes.add(value.dtype)
        if value.doc:
            info.doc_string = value.doc
        if value.metadata:
            _set_metadata(info.metadata_props, _public(value.metadata))

    def _annotate(self, graph: Graph, proto: onnx.GraphProto) -> None:
        """Quantization annotations, which name values by what they are called in the file."""
        labels: dict[str, str] = {}
        annotated: list[Value] = []
        for value in graph.values():
            if value in self._names.of:
                labels.setdefault(value.name, self._names.of[value])
            if value.metadata and any(key.startswith(QUANTIZATION) for key in value.metadata):
                annotated.append(value)
        for value in annotated:
            annotation = proto.quantization_annotation.add(tensor_name=self._names.of[value])
            for key, label in value.metadata.items():
                if key.startswith(QUANTIZATION) and label in labels:
                    annotation.quant_parameter_tensor_names.add(key=key.removeprefix(QUANTIZATION), value=labels[label])

    # -- nodes

    def _node(self, node: Node, graph: onnx.GraphProto, labels: dict[str, int]) -> None:
        version = self._version(node.op, node.domain)
        names = self._names.of
        inputs: Sequence[Value | torch.Tensor | None] = node.inputs
        attributes: Mapping[str, object] = node.attributes
        if not node.domain and version is not None:
            form = form_at(node, self._opset)
            assert form is not None, f"{node.describe()} was found expressible at opset {self._opset}"
            if form.inputs is not node.inputs:
                self._absorb(node, form.inputs)
            known = version.attributes
            inputs = trimmed(form.inputs)
            attributes = {k: v for k, v in form.attributes.items() if k in known} if form.attributes else {}
        proto = graph.node.add(
            op_type=node.op,
            input=["" if v is None else names[v] if isinstance(v, Value) else self._made(v, graph) for v in inputs],
            output=["" if v is None else self._names.name(v) for v in written_outputs(node, version)],
        )
        if node.name:
            proto.name = _unused(node.name, labels)
        if node.domain:
            proto.domain = node.domain
        if node.overload:
            proto.overload = node.overload
        if attributes:
            self._attributes.write(proto, attributes, version.attributes if version is not None else {})
        if node.doc:
            proto.doc_string = node.doc
        if node.metadata:
            self._node_metadata(node, proto)
        for key, told in torch_notes.node_notes(node):
            proto.metadata_props.add(key=key, value=told)
        self._types_of(node, graph)

    def _absorb(self, node: Node, written: Sequence[Value | torch.Tensor | None]) -> None:
        """Notes the inputs of a node that its form at this opset does not read."""
        read = {v for v in written if isinstance(v, Value)}
        for value in node.inputs:
            if value is not None and value not in read:
                self._absorbed[value] = self._absorbed.get(value, 0) + 1

    def _types_of(self, node: Node, graph: onnx.GraphProto) -> None:
        for value in node.outputs:
            name = self._names.of.get(value)
            if not name or name in self._names.output_names:
                continue
            if value.type != UNKNOWN or value.doc or value.metadata:
                self._value_info(graph.value_info, value, name)

    def _made(self, data: torch.Tensor, graph: onnx.GraphProto) -> str:
        """A Constant node for a tensor that only the form of a node at this opset needs; its name."""
        name = self._names.unique("constant")
        node = graph.node.add(op_type="Constant", output=[name])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(write_tensor(data))
        return name

    def _node_metadata(self, node: Node, proto: onnx.NodeProto) -> None:
        for key, text in node.metadata.items():
            if key == DEVICES:
                proto.MergeFromString(base64.b64decode(text))
            else:
                proto.metadata_props.add(key=key, value=text)

    def _version(self, op: str, domain: str) -> OpVersion | None:
        key = (op, domain)
        if key not in self._versions:
            opset = self._opset
            if domain:
                newest = onnx.defs.onnx_ml_opset_version() if domain == "ai.onnx.ml" else 1
                opset = self._graph.model.domains.get(domain, newest)
                self._domains[domain] = opset
            self._versions[key] = version_at(op, domain, opset)
        return self._versions[key]


def _sparse_weights(graph: Graph) -> dict[Value, SparseTensor]:
    """The large weights of the outermost graph that are smaller in sparse form."""
    found = {}
    for value in graph.constants:
        data = value.data
        if data is None or not value.uses or data.numel() * value.dtype.bits <= 8 * BULK:
            continue
        held = sparse_form(data, value.dtype)
        if held is not None:
            found[value] = held
    return found


def _unused(label: str, labels: dict[str, int]) -> str:
    """`label`, or `label` and a number: ONNX Runtime wants the nodes of a graph to have different names."""
    name = label
    while name in labels:
        name = f"{label}_{labels[label]}"
        labels[label] += 1
    labels[name] = 0
    return name


def _elements(value: Value) -> torch.Tensor | np.ndarray:
    data = value._data
    assert data is not None, f"{value} is a constant"
    return data


def _public(metadata: Mapping[str, str]) -> Mapping[str, str]:
    return {key: text for key, text in metadata.items() if not key.startswith(QUANTIZATION)}


def _set_metadata(
    entries: RepeatedCompositeFieldContainer[onnx.StringStringEntryProto], metadata: Mapping[str, str]
) -> None:
    for key, text in metadata.items():
        entries.add(key=key, value=text)
