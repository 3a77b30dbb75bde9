"""ONNX models as graphs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch

from graphopt.errors import LoadError
from graphopt.frontends import onnx_upgrade_inputs, onnx_upgrade_layers  # noqa: F401  (they fill the table)
from graphopt.frontends.onnx_attributes import AttributeReader
from graphopt.frontends.onnx_order import Step, describe, ordered
from graphopt.frontends.onnx_text import read_metadata, require_text, require_texts
from graphopt.frontends.onnx_upgrade import Upgrade
from graphopt.ir import UNKNOWN, DType, Graph, ModelInfo, Node, Origin, TensorType, Value, ValueType
from graphopt.ir import dims as D
from graphopt.ops import torch_notes
from graphopt.ops.definition import departure
from graphopt.ops.protos import BORDER, DEVICES, QUANTIZATION, ReadExternal, read_sparse, read_tensor, read_type, text
from graphopt.ops.sparse import SPARSE

_NO_ORIGIN = Origin()
_HAS_DEVICES = "device_configurations" in onnx.NodeProto.DESCRIPTOR.fields_by_name


def read_model(model: onnx.ModelProto, external: ReadExternal | None, opset: int) -> Graph:
    """The graph of a model, upgraded to the canonical opset. The message is not changed.

    Args:
        model: of opset 7 or newer.
        external: reads tensors that are kept in other files.
        opset: of the file, which may be older than that of `model`, if onnx's converter has been at work.

    Raises:
        LoadError: the model is malformed; says which value and node.
    """
    reader = _Reader(model, opset, external)
    graph = reader.graph(model.graph, None)
    graph.model = _model_info(model, opset)
    _name_sizes(graph)
    require_texts(graph)
    note = graph.model.metadata.pop(torch_notes.SIGNATURE, None)
    if note is not None:
        graph.signature = torch_notes.read_signature_note(note, len(graph.inputs), len(graph.outputs))
    for value, reason in reader.upgrade.orphans.items():
        if value.uses:
            raise LoadError(reason, where=f"value '{value.name}'", hint="export the model for inference")
    return graph


def _model_info(model: onnx.ModelProto, opset: int) -> ModelInfo:
    rest = onnx.ModelProto()
    for name in ("training_info", "configuration"):
        if name in onnx.ModelProto.DESCRIPTOR.fields_by_name:
            getattr(rest, name).extend(getattr(model, name))
    return ModelInfo(
        ir_version=model.ir_version,
        opset=opset,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc=model.doc_string,
        domains={each.domain: each.version for each in model.opset_import if each.domain not in ("", "ai.onnx")},
        functions=tuple(function.SerializeToString() for function in model.functions),
        metadata=read_metadata(model.metadata_props),
        declared=_declared(model.graph),
        rest=rest.SerializeToString(),
    )


def _declared(graph: onnx.GraphProto) -> dict[str, ValueType]:
    outputs = {info.name: read_type(info.type) for info in graph.output}
    if not any(isinstance(kind, TensorType) and any(map(D.is_symbolic, kind.shape or ())) for kind in outputs.values()):
        return {}
    return {**{info.name: read_type(info.type) for info in graph.input}, **outputs}


def _name_sizes(graph: Graph) -> None:
    """Gives the unknown sizes of the inputs symbols, for without one none is known to equal itself further down."""
    kinds = [value.type for value in graph.inputs]
    dims = [dim for kind in kinds if isinstance(kind, TensorType) for dim in kind.shape or ()]
    if None not in dims:
        return
    symbols = D.unnamed(name for dim in dims for name in D.free_names(dim))
    declared = graph.model.declared
    for value, kind in zip(graph.inputs, kinds, strict=True):
        if isinstance(kind, TensorType) and kind.shape is not None:
            value.type = kind.with_shape(next(symbols) if dim is None else dim for dim in kind.shape)
            declared.update({value.name: value.type} if value.name in declared else {})


class _Scope:
    """The values that a graph's nodes can name: its own and those of the graphs around it."""

    __slots__ = ("names", "parent")

    def __init__(self, parent: _Scope | None) -> None:
        self.names: dict[str, Value] = {}
        self.parent = parent

    def find(self, name: str) -> Value | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None


class _Reader:
    def __init__(self, model: onnx.ModelProto, opset: int, external: ReadExternal | None) -> None:
        self.upgrade = Upgrade(model, opset)
        # Before version 4 every initializer had to be listed as an input as well; nobody meant it to be fed.
        self._overridable = model.ir_version >= 4
        self._external = external
        self._scope = _Scope(None)
        self._attributes = AttributeReader(external, lambda body: self.graph(body, self._scope))

    def graph(self, proto: onnx.GraphProto, parent: _Scope | None) -> Graph:
        """Reads a graph; `parent` is the scope around a body."""
        graph = Graph(proto.name)
        graph.doc, graph.metadata = proto.doc_string, read_metadata(proto.metadata_props)
        outer, self._scope = self._scope, _Scope(parent)
        self._inputs(proto, graph)
        infos = {info.name: info for info in proto.value_info}
        infos.update((info.name, info) for info in proto.output)
        names = self._scope.names
        for step in ordered(proto, set(names)):
            self._step(step, graph, infos)
        for annotation in proto.quantization_annotation:
            if annotation.tensor_name in names:
                tensors = read_metadata(annotation.quant_parameter_tensor_names)
                names[annotation.tensor_name].metadata |= {QUANTIZATION + key: name for key, name in tensors.items()}
        for info in proto.output:
            value = self._scope.find(info.name)
            if value is None:
                raise LoadError(f"graph '{proto.name}' returns '{info.name}', which nothing defines")
            graph.add_output(value, info.name)
        self._scope = outer
        return graph

    # -- inputs and initializers

    def _inputs(self, proto: onnx.GraphProto, graph: Graph) -> None:
        names = self._scope.names
        data: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = {}
        for name, tensor in [
            *((t.name, t) for t in proto.initializer), *((t.values.name, t) for t in proto.sparse_initializer)
        ]:  # fmt: skip
            if name in data:
                raise LoadError(f"initializer '{name}' is defined twice")
            data[name] = tensor
        for info in proto.input:
            if info.name in names:
                raise LoadError(f"input '{info.name}' is defined twice")
            tensor = data.get(info.name)
            if tensor is not None and not (self._overridable and isinstance(tensor, onnx.TensorProto)):
                continue
            value = graph.add_input(info.name, read_type(info.type) if info.HasField("type") else UNKNOWN)
            if tensor is not None:
                elements, dtype = read_tensor(cast(onnx.TensorProto, data.pop(info.name)), self._external)
                value.data = elements
                if value.type == UNKNOWN:
                    value.type = TensorType(dtype, tuple(elements.shape))
            value.doc, value.metadata = info.doc_string, read_metadata(info.metadata_props)
            names[info.name] = value
        for name, tensor in data.items():
            names[name] = self._initializer(graph, name, tensor)

    def _initializer(self, graph: Graph, name: str, proto: onnx.TensorProto | onnx.SparseTensorProto) -> Value:
        if isinstance(proto, onnx.SparseTensorProto):
            sparse = read_sparse(proto, self._external)
            # ONNX's checker lets no operator read a sparse initializer, but what a Constant node makes of one.
            value = Value(TensorType(sparse.dtype, sparse.shape), name)
            graph.append(Node("Constant", attributes={"sparse_value": sparse}, outputs=[value]))
            return value
        data, dtype = read_tensor(proto, self._external)
        return self._described(graph.add_constant(Value(TensorType(dtype, tuple(data.shape)), name, data)), proto)

    def _described(self, value: Value, proto: onnx.TensorProto | onnx.NodeProto) -> Value:
        metadata = read_metadata(proto.metadata_props)
        torch_notes.read_value_notes(value, metadata)
        value.doc, value.metadata = proto.doc_string, metadata
        return value

    # -- nodes

    def _step(self, step: Step, graph: Graph, infos: dict[str, onnx.ValueInfoProto]) -> None:
        proto = step.proto
        op, domain = proto.op_type, proto.domain
        if type(op) is not str or type(domain) is not str:
            require_text("a node", (op, domain))
        if domain == "ai.onnx":
            domain = ""
        if op == "Constant" and not domain and self._constant(step, graph):
            return
        if op == "Identity" and self._border(step):
            return
        node = self._node(step, op, domain, infos)
        for each in self._upgraded(graph, node, proto) if not domain and op in self.upgrade.adapters else (node,):
            wrong = departure(each)
            if wrong is not None:
                raise LoadError(
                    wrong, where=describe(proto), hint="the file is malformed: onnx.checker says more; export it again"
                )
            graph.append(each)

    def _upgraded(self, graph: Graph, node: Node, proto: onnx.NodeProto) -> Sequence[Node]:
        try:
            return self.upgrade.apply(graph, node)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise LoadError(
                f"{node.op} is not as opset {self.upgrade.opset} defines it ({type(error).__name__}: {error})",
                where=describe(proto), hint="the file is malformed: onnx.checker says more; export it again",
            ) from error  # fmt: skip

    def _node(self, step: Step, op: str, domain: str, infos: dict[str, onnx.ValueInfoProto]) -> Node:
        proto = step.proto
        names = self._scope.names
        inputs: list[Value | None] = []
        for name in step.inputs:
            value = names.get(name) if name else None
            if value is None and name:
                value = self._scope.find(name)
                if value is None:
                    raise LoadError(
                        f"value '{name}' is read, but nothing defines it", where=describe(proto),
                        hint="the file is malformed: add what gives it, or export it again",
                    )  # fmt: skip
            inputs.append(value)
        attributes = self._read_attributes(proto) if proto.attribute else None
        outputs = [self._output(name, infos) for name in step.outputs]
        label = proto.name
        node = Node(
            op,
            inputs,
            attributes,
            outputs,
            domain=domain,
            overload=proto.overload,
            name=label,
            origin=Origin(sources=(label,)) if label else _NO_ORIGIN,
        )
        node.doc = proto.doc_string
        if proto.metadata_props:
            metadata = read_metadata(proto.metadata_props)
            torch_notes.read_node_notes(node, metadata)
            node.metadata = metadata
        if _HAS_DEVICES and proto.device_configurations:
            kept = onnx.NodeProto(device_configurations=proto.device_configurations)
            node.metadata[DEVICES] = base64.b64encode(kept.SerializeToString()).decode()
        return node

    def _output(self, name: str, infos: dict[str, onnx.ValueInfoProto]) -> Value:
        info = infos.get(name)
        if not name or info is None:
            value = Value(UNKNOWN, name)
        else:
            value = Value(read_type(info.type), name)
            if info.doc_string or info.metadata_props:
                value.doc, value.metadata = info.doc_string, read_metadata(info.metadata_props)
        if name:
            self._scope.names[name] = value
        return value

    def _read_attributes(self, proto: onnx.NodeProto) -> dict[str, Any]:
        try:
            read = self._attributes.read
            return {attribute.name: read(attribute) for attribute in proto.attribute}
        except LoadError as error:
            where = describe(proto) + (f" > {error.where}" if error.where else "")
            raise LoadError(error.what, where=where, hint=error.hint) from None

    def _constant(self, step: Step, graph: Graph) -> bool:
        """Adds what a Constant node holds as a constant; false when a tensor cannot hold it."""
        proto = step.proto
        if len(proto.attribute) != 1 or len(step.outputs) != 1:
            return False
        attribute = proto.attribute[0]
        ours = attribute.name == "sparse_value" and any(entry.key == SPARSE for entry in proto.metadata_props)
        if attribute.ref_attr_name or not (ours or attribute.name in _CONSTANTS):
            return False
        try:
            data, dtype = _constant_data(attribute, self._external)
        except LoadError as error:
            raise LoadError(error.what, where=describe(proto), hint=error.hint) from None
        value = graph.add_constant(Value(TensorType(dtype, tuple(data.shape)), step.outputs[0], data))
        self._scope.names[step.outputs[0]] = self._described(value, proto)
        value.metadata.pop(SPARSE, None)
        return True

    def _border(self, step: Step) -> bool:
        """Leaves out an Identity that our writer put in only to give a value a second name."""
        entries = step.proto.metadata_props
        if len(entries) != 1 or entries[0].key != BORDER:
            return False
        value = self._scope.find(step.inputs[0])
        if value is None:
            return False
        self._scope.names[step.outputs[0]] = value
        return True


_CONSTANTS = frozenset(
    {"value", "value_int", "value_ints", "value_float", "value_floats", "value_string", "value_strings"}
)


def _constant_data(
    attribute: onnx.AttributeProto, external: ReadExternal | None
) -> tuple[torch.Tensor | np.ndarray, DType]:
    match attribute.name:
        case "value":
            return read_tensor(attribute.t, external)
        case "sparse_value":
            sparse = read_sparse(attribute.sparse_tensor, external)
            return sparse.dense(), sparse.dtype
        case "value_int":
            return torch.tensor(attribute.i), DType.INT64
        case "value_ints":
            return torch.tensor(list(attribute.ints), dtype=torch.int64), DType.INT64
        case "value_float":
            return torch.tensor(attribute.f, dtype=torch.float32), DType.FLOAT32
        case "value_floats":
            return torch.tensor(list(attribute.floats), dtype=torch.float32), DType.FLOAT32
    many = attribute.name == "value_strings"
    strings = [text(raw) for raw in (attribute.strings if many else [attribute.s])]
    array = np.empty(len(strings), dtype=object)
    array[:] = strings
    return (array if many else array.reshape(())), DType.STRING


__all__ = ["read_model"]
