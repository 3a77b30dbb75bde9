"""Attributes of ONNX nodes as python values."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import torch

from graphopt.errors import LoadError
from graphopt.ir import Attribute, Graph
from graphopt.ir.literals import EmptyList, TypedTensor
from graphopt.ops.protos import ReadExternal, read_sparse, read_tensor, read_type, text

_A = onnx.AttributeProto
_LIST_FIELDS: dict[int, str] = {
    _A.INTS: "ints", _A.FLOATS: "floats", _A.STRINGS: "strings", _A.TENSORS: "tensors", _A.GRAPHS: "graphs",
    _A.TYPE_PROTOS: "type_protos", _A.SPARSE_TENSORS: "sparse_tensors",
}  # fmt: skip
_FIELDS: dict[int, str] = {
    _A.INT: "i", _A.FLOAT: "f", _A.STRING: "s", _A.TENSOR: "t", _A.GRAPH: "g", _A.TYPE_PROTO: "tp",
    _A.SPARSE_TENSOR: "sparse_tensor",
}  # fmt: skip


class AttributeReader:
    """Turns ``AttributeProto`` messages into python values.

    Numbers stay numbers, strings are decoded (bytes that are not UTF-8 stay bytes), lists become tuples, tensors
    ``torch.Tensor`` (`TypedTensor` for sub-byte elements, object arrays for strings), bodies `Graph`, types
    `ValueType`.
    """

    def __init__(self, external: ReadExternal | None, read_graph: Callable[[onnx.GraphProto], Graph]) -> None:
        self._external = external
        self._read_graph = read_graph
        self._readers: dict[int, Callable[[Any], Attribute]] = {
            _A.INT: lambda v: v,
            _A.FLOAT: shortest,
            _A.STRING: text,
            _A.TENSOR: self._tensor,
            _A.GRAPH: lambda v: self._read_graph(v),
            _A.TYPE_PROTO: read_type,
            _A.SPARSE_TENSOR: lambda v: read_sparse(v, self._external),
        }

    def read(self, proto: onnx.AttributeProto) -> Attribute:
        """The value of an attribute. Raises LoadError for a kind that ONNX does not have."""
        kind = proto.type or _guess(proto)
        if kind == _A.INT:
            return proto.i
        if kind == _A.INTS:
            return tuple(proto.ints) or EmptyList("INTS")
        if kind in _FIELDS:
            return self._readers[kind](getattr(proto, _FIELDS[kind]))
        if kind not in _LIST_FIELDS:
            raise LoadError(f"attribute '{proto.name}' has kind {kind}, which is none of ONNX's")
        # Lists are numbered five above their elements, but for the types.
        reader = self._readers[kind - 1 if kind in (_A.TYPE_PROTOS, _A.SPARSE_TENSORS) else kind - 5]
        return tuple(map(reader, getattr(proto, _LIST_FIELDS[kind]))) or EmptyList(_A.AttributeType.Name(kind))

    def _tensor(self, proto: onnx.TensorProto) -> Attribute:
        data, dtype = read_tensor(proto, self._external)
        if isinstance(data, torch.Tensor) and dtype.bits < 8:
            return TypedTensor(data, dtype)
        return data


@lru_cache(maxsize=4096)
def shortest(number: float) -> float:
    """The float with the fewest digits that is the same in single precision: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _guess(proto: onnx.AttributeProto) -> int:
    """The kind of an attribute in files from before attributes said it."""
    for kind, name in _LIST_FIELDS.items():
        if getattr(proto, name):
            return kind
    for kind, name in _FIELDS.items():
        if proto.HasField(name):
            return kind
    return _A.UNDEFINED
