"""Older ONNX operator definitions to the canonical opset: the table, and what its adapters share.

An adapter turns one node of an older definition into nodes that mean the same at the canonical opset. Only operators
whose form or meaning changed have one; the others pass through as they are. The output Values keep their identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch

from graphopt.errors import LoadError
from graphopt.ir import UNKNOWN, DType, Graph, Node, Shape, TensorType, Value, ValueType
from graphopt.ops.protos import read_type

#: Takes a detached node of an older definition; returns the nodes that replace it, in order.
Adapter: TypeAlias = Callable[["Upgrade", Node], Sequence[Node]]

#: Adapters by operator: (first opset that needs it no more, adapter), ascending.
UPGRADES: dict[str, list[tuple[int, Adapter]]] = {}

#: Initializers up to this many bytes are shown to ONNX's shape inference.
_SMALL = 1024


def upgrade(below: int, *ops: str) -> Callable[[Adapter], Adapter]:
    """Registers an adapter of `ops` for models whose opset is lower than `below`."""

    def decorate(adapter: Adapter) -> Adapter:
        for op in ops:
            UPGRADES.setdefault(op, []).append((below, adapter))
            UPGRADES[op].sort(key=lambda entry: entry[0])
        return adapter

    return decorate


class Upgrade:
    """Upgrades the nodes of one model.

    Attributes:
        opset: version of the standard operators that the model was written for.
        graph: the graph that is being read; new constants go there.
        orphans: values that no operator computes any more, and why.
    """

    def __init__(self, model: onnx.ModelProto, opset: int) -> None:
        self.opset = opset
        self.graph = Graph()
        self.orphans: dict[Value, str] = {}
        self._model = model
        self._inferred: dict[str, ValueType] | None = None
        self.adapters = {
            op: [adapter for below, adapter in entries if opset < below]
            for op, entries in UPGRADES.items()
            if opset < entries[-1][0]
        }

    def apply(self, graph: Graph, node: Node) -> Sequence[Node]:
        """The canonical form of a detached node."""
        self.graph = graph
        nodes: Sequence[Node] = [node]
        for adapter in self.adapters.get(node.op, ()):
            nodes = [new for old in nodes for new in (adapter(self, old) if old.op == node.op else [old])]
        return nodes

    # -- what adapters need

    def constant(self, data: Any, dtype: torch.dtype = torch.int64) -> Value:
        """A new constant in the graph being read."""
        tensor = data if isinstance(data, torch.Tensor) else torch.tensor(data, dtype=dtype)
        return self.graph.add_constant(tensor)

    def type(self, value: Value | None) -> TensorType:
        """The type of a value: what the file says, else what ONNX's shape inference finds."""
        if value is None:
            return UNKNOWN
        known = value.tensor_type
        if known.shape is None or known.dtype is DType.UNDEFINED:
            found = self._infer().get(value.name, UNKNOWN)
            return found if isinstance(found, TensorType) and found != UNKNOWN else known
        return known

    def shape(self, value: Value | None) -> Shape | None:
        """The shape of a value, if it can be found out."""
        return self.type(value).shape

    def torch_dtype(self, value: Value | None) -> torch.dtype:
        """The torch dtype of a value; float32, by far the most frequent, when it cannot be found out."""
        dtype = self.type(value).dtype
        return torch.float32 if dtype in (DType.UNDEFINED, DType.STRING) else dtype.torch

    def _infer(self) -> dict[str, ValueType]:
        if self._inferred is None:
            self._inferred = _inferred_types(self._model)
        return self._inferred


def _inferred_types(model: onnx.ModelProto) -> dict[str, ValueType]:
    """Types by value name, from ONNX's shape inference over the model without its weights."""
    slim = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    slim.functions.extend(model.functions)
    slim.graph.name = model.graph.name or "main"
    slim.graph.node.extend(model.graph.node)
    slim.graph.input.extend(model.graph.input)
    slim.graph.output.extend(model.graph.output)
    slim.graph.value_info.extend(model.graph.value_info)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            slim.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            shape = list(tensor.dims)
            slim.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    try:
        inferred = onnx.shape_inference.infer_shapes(slim)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}  # the adapters have a longer form for what is not known
    types: dict[str, ValueType] = {}
    _collect(inferred.graph, types)
    return types


def _collect(graph: onnx.GraphProto, types: dict[str, ValueType]) -> None:
    for info in [*graph.input, *graph.output, *graph.value_info]:
        types[info.name] = read_type(info.type)
    for node in graph.node:
        for attribute in node.attribute:
            for body in [*attribute.graphs, attribute.g] if attribute.HasField("g") else attribute.graphs:
                _collect(body, types)


def rebuild(
    node: Node,
    op: str,
    inputs: Sequence[Value | None],
    attributes: dict[str, Any] | None = None,
    outputs: Sequence[Value] | None = None,
) -> Node:
    """A node that takes the place of `node` and keeps its label, origin, documentation and (by default) outputs."""
    new = Node(op, inputs, attributes, node.outputs if outputs is None else outputs, name=node.name, origin=node.origin)
    new.doc, new.metadata = node.doc, node.metadata
    return new


def step(node: Node, op: str, *inputs: Value | None, **attributes: Any) -> Node:
    """A node before or behind `node` that belongs to it, with one new output."""
    return Node(op, inputs, attributes, origin=node.origin)


def integers(value: Value | None) -> list[int] | None:
    """The elements of an integer constant; ``None`` for what is not constant."""
    if value is None or not value.is_constant or value.data is None:
        return None
    return [int(v) for v in np.asarray(value.data).reshape(-1)]


def unsupported(node: Node, what: str) -> LoadError:
    """The error for an old form that the canonical opset cannot express."""
    return LoadError(what, where=node.describe(), hint="export the model at a newer opset")
