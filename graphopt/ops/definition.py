"""Whether nodes are as ONNX's definitions of their operators have them."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import onnx
import onnx.defs
import torch

from graphopt.ir import Graph, Node
from graphopt.ir.literals import EmptyList, SparseTensor, TypedTensor
from graphopt.ir.types import MapType, OptionalType, SequenceType, TensorType
from graphopt.ops.opset import CANONICAL_OPSET

_A = onnx.AttributeProto
_Option = onnx.defs.OpSchema.FormalParameterOption
# What stands for the element of an attribute, by ONNX's kind of it; lists are numbered like their elements.
_ELEMENTS: dict[int, tuple[type, ...]] = {
    _A.INT: (int,), _A.FLOAT: (float, int), _A.STRING: (str, bytes), _A.TENSOR: (torch.Tensor, np.ndarray, TypedTensor),
    _A.GRAPH: (Graph,), _A.SPARSE_TENSOR: (SparseTensor,),
    _A.TYPE_PROTO: (TensorType, SequenceType, OptionalType, MapType),
}  # fmt: skip
_LISTS: dict[int, int] = {
    _A.INTS: _A.INT, _A.FLOATS: _A.FLOAT, _A.STRINGS: _A.STRING, _A.TENSORS: _A.TENSOR, _A.GRAPHS: _A.GRAPH,
    _A.SPARSE_TENSORS: _A.SPARSE_TENSOR, _A.TYPE_PROTOS: _A.TYPE_PROTO,
}  # fmt: skip


def departure(node: Node) -> str | None:
    """What about a node is not as the canonical definition of its operator has it, if anything.

    Counts and left-out places of inputs and outputs, and the kinds of attributes are looked at. Attributes that the
    definition does not know are let through, since ONNX's own test files have some. About operators that ONNX does not
    define nothing is known.
    """
    if node.domain:
        return None
    kinds = tuple([(name, _kind(value)) for name, value in node.attributes.items()])
    return _departure(node.op, tuple([v is not None for v in node.inputs]), len(node.outputs), kinds)


def _kind(value: Any) -> Any:
    """The type of an attribute; for a list the types of its elements."""
    return frozenset(map(type, value)) if isinstance(value, (tuple, list)) else type(value)


@lru_cache(maxsize=1 << 14)
def _departure(op: str, given: tuple[bool, ...], outputs: int, kinds: tuple[tuple[str, Any], ...]) -> str | None:
    schema = _schema(op)
    if schema is None:
        return None
    return _wrong_inputs(schema, given) or _wrong_outputs(schema, outputs) or _wrong_attributes(schema, dict(kinds))


@cache
def _schema(op: str) -> onnx.defs.OpSchema | None:
    for opset in (CANONICAL_OPSET, onnx.defs.onnx_opset_version()):
        try:
            return onnx.defs.get_schema(op, opset, "")
        except onnx.defs.SchemaError:
            continue
    return None


def _wrong_inputs(schema: onnx.defs.OpSchema, given: tuple[bool, ...]) -> str | None:
    count = len(given)
    while count and not given[count - 1]:
        count -= 1
    if not schema.min_input <= count <= schema.max_input:
        return f"{schema.name} has {count} inputs, {_range(schema.min_input, schema.max_input)} belong there"
    for index, present in enumerate(given[:count]):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        many = formal.option == _Option.Variadic and formal.is_homogeneous
        if not present and (many or formal.option == _Option.Single):
            return f"{schema.name} has no input '{formal.name}' at position {index}"
    return None


def _wrong_outputs(schema: onnx.defs.OpSchema, count: int) -> str | None:
    if schema.min_output <= count <= schema.max_output:
        return None
    return f"{schema.name} has {count} outputs, {_range(schema.min_output, schema.max_output)} belong there"


def _range(least: int, most: int) -> str:
    if most >= 1 << 31 - 1:
        return f"at least {least}"
    return str(least) if least == most else f"{least} to {most}"


def _wrong_attributes(schema: onnx.defs.OpSchema, kinds: dict[str, Any]) -> str | None:
    defined = schema.attributes
    for name in kinds.keys() & defined.keys():
        kind, wanted = kinds[name], defined[name].type
        if not _is_kind(kind, int(wanted.value)):  # type: ignore[attr-defined]  # its stub forgets that it is an enum
            return f"attribute '{name}' of {schema.name} is not of the kind {wanted.name}"  # type: ignore[attr-defined]
    missing = next((name for name, each in defined.items() if each.required and name not in kinds), None)
    return None if missing is None else f"{schema.name} has no attribute '{missing}'"


def _is_kind(kind: Any, wanted: int) -> bool:
    if wanted in _LISTS:
        elements = _ELEMENTS[_LISTS[wanted]]
        return kind is EmptyList or (isinstance(kind, frozenset) and all(issubclass(k, elements) for k in kind))
    return isinstance(kind, type) and issubclass(kind, _ELEMENTS.get(wanted, (object,)))


__all__ = ["departure"]
