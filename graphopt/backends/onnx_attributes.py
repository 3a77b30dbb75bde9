"""Attributes of nodes as ONNX messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch

from graphopt.errors import SaveError
from graphopt.ir import Attribute, Graph, MapType, OptionalType, SequenceType, TensorType
from graphopt.ir.literals import EmptyList, SparseTensor, TypedTensor
from graphopt.ops.protos import write_sparse, write_tensor, write_type

_A = onnx.AttributeProto
_TYPES = (TensorType, SequenceType, OptionalType, MapType)


class AttributeWriter:
    """Turns attributes into ``AttributeProto`` messages, of the kind that the operator's schema wants.

    Messages of numbers and strings are kept, since most nodes of a network have the same few attributes.
    """

    def __init__(self, write_graph: Callable[[Graph], onnx.GraphProto]) -> None:
        self._write_graph = write_graph
        self._kept: dict[tuple[str, int, Any], onnx.AttributeProto] = {}

    def write(self, node: onnx.NodeProto, attributes: Mapping[str, Attribute], kinds: Mapping[str, int]) -> None:
        """Adds `attributes` to `node`; ``None`` stands for one that is left out.

        Args:
            node: the message.
            attributes: by name.
            kinds: what the schema says; for other attributes the python type decides.

        Raises:
            SaveError: a value has no form in ONNX, or not the one that the operator wants.
        """
        for name, value in attributes.items():
            if value is None:
                continue
            kind = kinds.get(name) or _kind(name, value)
            key = (name, kind, value) if kind <= _A.STRING or kind in _PLAIN_LISTS else None
            try:
                proto = self._kept.get(key) if key is not None else None
                if proto is None:
                    proto = self._make(name, kind, value)
                    if key is not None:
                        self._kept[key] = proto
            except (TypeError, ValueError, AttributeError) as error:
                wanted = _A.AttributeType.Name(kind)
                raise SaveError(f"attribute '{name}' of {node.op_type} is no {wanted}: {error}") from None
            node.attribute.append(proto)

    def _make(self, name: str, kind: int, value: Any) -> onnx.AttributeProto:
        proto = _A(name=name, type=kind)  # type: ignore[arg-type]  # its stub wants the enum, not its number
        match kind:
            case _A.INT:
                proto.i = int(value)
            case _A.FLOAT:
                proto.f = float(value)
            case _A.STRING:
                proto.s = _encode(value)
            case _A.INTS:
                proto.ints.extend(map(int, value))
            case _A.FLOATS:
                proto.floats.extend(map(float, value))
            case _A.STRINGS:
                proto.strings.extend(map(_encode, value))
            case _A.TENSOR:
                proto.t.CopyFrom(write_tensor(value))
            case _A.TENSORS:
                proto.tensors.extend(map(write_tensor, value))
            case _A.GRAPH:
                proto.g.CopyFrom(self._write_graph(value))
            case _A.GRAPHS:
                proto.graphs.extend(map(self._write_graph, value))
            case _A.TYPE_PROTO:
                proto.tp.CopyFrom(write_type(value))
            case _A.TYPE_PROTOS:
                proto.type_protos.extend(map(write_type, value))
            case _A.SPARSE_TENSOR:
                proto.sparse_tensor.CopyFrom(write_sparse(value))
            case _:
                proto.sparse_tensors.extend(map(write_sparse, value))
        return proto


_PLAIN_LISTS = frozenset({_A.INTS, _A.FLOATS, _A.STRINGS})


def _encode(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _kind(name: str, value: Any) -> int:
    """The kind of an attribute of an operator without a schema."""
    if isinstance(value, EmptyList):
        return int(_A.AttributeType.Value(value.kind))
    if isinstance(value, (tuple, list)):
        return _list_kind(name, value)
    if isinstance(value, (int, np.integer)):
        return _A.INT
    if isinstance(value, (float, np.floating)):
        return _A.FLOAT
    if isinstance(value, (str, bytes)):
        return _A.STRING
    if isinstance(value, (torch.Tensor, np.ndarray, TypedTensor)):
        return _A.TENSOR
    if isinstance(value, Graph):
        return _A.GRAPH
    if isinstance(value, SparseTensor):
        return _A.SPARSE_TENSOR
    if isinstance(value, _TYPES):
        return _A.TYPE_PROTO
    raise SaveError(f"attribute '{name}' holds a {type(value).__name__}, which ONNX has no form for")


def _list_kind(name: str, value: Sequence[Any]) -> int:
    kinds = {_kind(name, item) for item in value}
    if kinds <= {_A.INT, _A.FLOAT}:
        return _A.FLOATS if _A.FLOAT in kinds else _A.INTS
    if len(kinds) != 1:
        raise SaveError(f"attribute '{name}' mixes elements of different kinds")
    (kind,) = kinds
    return int(kind) + (1 if kind in (_A.TYPE_PROTO, _A.SPARSE_TENSOR) else 5)
