"""Structural equality of graphs: what differs first."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.ir import dims as D
from graphopt.ir.dense import flat
from graphopt.ir.graph import Graph
from graphopt.ir.literals import EmptyList, SparseTensor, TypedTensor
from graphopt.ir.node import Node
from graphopt.ir.types import MapType, OptionalType, SequenceType, TensorType, ValueType
from graphopt.ir.value import Value

__all__ = ["difference", "equal"]

_SHOWN = 60


def equal(a: Graph, b: Graph, *, provenance: bool = False) -> bool:
    """True when the graphs are the same up to the names of values inside them (see `difference`)."""
    return difference(a, b, provenance=provenance) is None


def difference(a: Graph, b: Graph, *, provenance: bool = False) -> str | None:
    """The first difference between two graphs in one line, or ``None`` when they are equal.

    Compared are the nodes in their order with attributes and bodies, which values they read, types, the constants'
    data to the bit (unless one is a meta tensor), parameters, names of the outermost graph's inputs and outputs. Not
    compared are the names of other values (those of a body's inputs and outputs are labels too: their place decides)
    and the order of constants.

    Args:
        a: one graph.
        b: the other.
        provenance: compare also what does not change the meaning: origins, names of nodes, doc strings, metadata, the
            model's information and the signature.
    """
    return next(_Comparison(provenance).graphs(a, b, ""), None)


class _Comparison:
    """Generates the differences; corresponding values are found on the way."""

    def __init__(self, provenance: bool) -> None:
        self._provenance = provenance
        self._partner: dict[Value, Value] = {}
        self._taken: set[Value] = set()

    def graphs(self, a: Graph, b: Graph, where: str) -> Iterator[str]:
        yield from self._interface(a, b, where, "inputs", [v.name for v in a.inputs], [v.name for v in b.inputs])
        for x, y in zip(a.inputs, b.inputs, strict=True):
            yield from self._pair(x, y, f"{where}input '{x.name}': ")
            yield from self._sources(x, y, f"{where}input '{x.name}': ")
        for n, m in itertools.zip_longest(a.nodes, b.nodes):
            if n is None or m is None:
                more = "second" if n is None else "first"
                yield f"{where}the {more} graph has one more node, {(n or m).describe()}"
                return
            yield from self._nodes(n, m, f"{where}{n.describe()}: ")
        yield from self._interface(a, b, where, "output names", list(a.output_names), list(b.output_names))
        for x, y, name in zip(a.outputs, b.outputs, a.output_names, strict=True):
            yield from self._reads(x, y, f"{where}output '{name}': ")
        yield from self._unread(a, b, where)
        if self._provenance:
            yield from self._surroundings(a, b, where)

    @staticmethod
    def _interface(a: Graph, b: Graph, where: str, what: str, names: list[str], others: list[str]) -> Iterator[str]:
        if a.owner is None and b.owner is None:
            yield from _told(where, what, names, others)
        else:
            yield from _told(where, f"number of {what}", len(names), len(others))

    def _surroundings(self, a: Graph, b: Graph, where: str) -> Iterator[str]:
        yield from _told(where, "name of the graph", a.name, b.name)
        yield from self._notes(a, b, where)
        for field in dataclasses.fields(a.model):
            name = field.name
            yield from _told(where, f"model's {name}", getattr(a.model, name), getattr(b.model, name))
        yield from _told(where, "signature", a.signature, b.signature)

    def _notes(self, a: Any, b: Any, where: str) -> Iterator[str]:
        if self._provenance:
            yield from _told(where, "doc string", a.doc, b.doc)
            yield from _told(where, "metadata", dict(a.metadata), dict(b.metadata))

    def _nodes(self, a: Node, b: Node, where: str) -> Iterator[str]:
        yield from _told(where, "operator", _operator(a), _operator(b))
        yield from _told(where, "number of inputs", len(a.inputs), len(b.inputs))
        for index, (x, y) in enumerate(zip(a.inputs, b.inputs, strict=True)):
            yield from self._reads(x, y, f"{where}input {index}: ")
        yield from _told(where, "names of attributes", sorted(a.attributes), sorted(b.attributes))
        for name, value in a.attributes.items():
            yield from self._attributes(value, b.attributes[name], f"{where}attribute '{name}': ")
        outputs = _outputs(a), _outputs(b)
        yield from _told(where, "number of outputs", len(outputs[0]), len(outputs[1]))
        for index, (x, y) in enumerate(zip(*outputs, strict=True)):
            yield from _told(f"{where}output {index}: ", "presence", _is_there(x), _is_there(y))
            if _is_there(x):
                yield from self._pair(x, y, f"{where}output {index}: ")
        if self._provenance:
            yield from _told(where, "name", a.name, b.name)
            yield from _told(where, "origin", a.origin, b.origin)
            yield from self._notes(a, b, where)

    # -- values

    def _pair(self, a: Value, b: Value, where: str) -> Iterator[str]:
        self._partner[a] = b
        self._taken.add(b)
        if not _same_type(a.type, b.type):
            yield f"{where}type is {a.type} in the first graph, {b.type} in the second"
        yield from self._notes(a, b, where)

    def _reads(self, a: Value | None, b: Value | None, where: str) -> Iterator[str]:
        if a is None or b is None:
            if a is not b:
                yield f"{where}left out in the {'first' if a is None else 'second'} graph only"
            return
        partner = self._partner.get(a)
        if partner is b:
            return
        if partner is None and b not in self._taken and a.is_constant and b.is_constant:
            yield from self._constants(a, b, where)
        else:
            yield f"{where}reads {_place(a)} in the first graph, {_place(b)} in the second"

    def _constants(self, a: Value, b: Value, where: str) -> Iterator[str]:
        yield from self._pair(a, b, where)
        yield from self._sources(a, b, where)

    def _sources(self, a: Value, b: Value, where: str) -> Iterator[str]:
        yield from _told(where, "parameter", a.parameter, b.parameter)
        if not _same_data(a._data, b._data):
            yield f"{where}data differs: {_summary(a._data)} in the first graph, {_summary(b._data)} in the second"

    def _unread(self, a: Graph, b: Graph, where: str) -> Iterator[str]:
        """Constants that nothing reads: parameters by name, others in their order."""
        rest_a = sorted((v for v in a.constants if v not in self._partner), key=_fully_qualified)
        rest_b = sorted((v for v in b.constants if v not in self._taken), key=_fully_qualified)
        yield from _told(where, "number of constants", len(a.constants), len(b.constants))
        for x, y in zip(rest_a, rest_b, strict=True):
            yield from self._constants(x, y, f"{where}unused constant '{_fully_qualified(x) or x.name}': ")

    # -- attributes

    def _attributes(self, a: Any, b: Any, where: str) -> Iterator[str]:
        if isinstance(a, Graph) and isinstance(b, Graph):
            yield from self.graphs(a, b, where)
        elif isinstance(a, EmptyList) or isinstance(b, EmptyList):
            if a != b:
                yield from _told(where, "value", a, b)
        elif isinstance(a, tuple | list) and isinstance(b, tuple | list):
            yield from _told(where, "length", len(a), len(b))
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                yield from self._attributes(x, y, f"{where}[{index}] ")
        elif not _same_literal(a, b):
            yield f"{where}{_short(a)} in the first graph, {_short(b)} in the second"


def _told(where: str, what: str, a: object, b: object) -> Iterator[str]:
    if a != b:
        yield f"{where}{what} is {_short(a)} in the first graph, {_short(b)} in the second"


def _short(item: object) -> str:
    text = " ".join(repr(item).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _operator(node: Node) -> str:
    return f"{node.domain}::{node.op}" + (f"@{node.overload}" if node.overload else "")


def _outputs(node: Node) -> Sequence[Value]:
    """The outputs up to the last that is there: those after it are left out when written."""
    count = len(node.outputs)
    while count > 1 and not _is_there(node.outputs[count - 1]):
        count -= 1
    return node.outputs[:count]


def _is_there(value: Value) -> bool:
    return bool(value.name or value._uses)


def _place(value: Value) -> str:
    if value.producer is not None:
        return f"output {value.index} of {value.producer.describe()}"
    return f"the {'input' if value.is_input else 'constant'} '{value.name}'"


def _fully_qualified(value: Value) -> str:
    return value.parameter.name if value.parameter is not None else ""


def _summary(data: torch.Tensor | np.ndarray | None) -> str:
    return "none" if data is None else f"{data.dtype} of shape {tuple(data.shape)}"


def _same_type(a: ValueType, b: ValueType) -> bool:
    if a == b:
        return True
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        if a.dtype != b.dtype or a.sparse != b.sparse or a.shape is None or b.shape is None:
            return False
        return len(a.shape) == len(b.shape) and all(
            x is y or D.same(x, y) for x, y in zip(a.shape, b.shape, strict=True)
        )
    if isinstance(a, MapType) and isinstance(b, MapType):
        return a.key == b.key and _same_type(a.element, b.element)
    if isinstance(a, SequenceType | OptionalType) and isinstance(b, SequenceType | OptionalType):
        return type(a) is type(b) and _same_type(a.element, b.element)
    return False


def _same_data(a: torch.Tensor | np.ndarray | None, b: torch.Tensor | np.ndarray | None) -> bool:
    if a is b:
        return True
    if a is None or b is None or a.dtype != b.dtype or tuple(a.shape) != tuple(b.shape):
        return False
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        # torch refuses to view an empty tensor as bytes.
        return a.is_meta or b.is_meta or not a.numel() or torch.equal(_bytes(a), _bytes(b))
    return bool(np.array_equal(a, b))


def _bytes(data: torch.Tensor) -> torch.Tensor:
    return flat(data).view(torch.uint8)


def _same_literal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, int) and isinstance(b, int):
        return a == b  # bools and element types are integers in a file
    if type(a) is not type(b):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and _same_data(a, b)
    if isinstance(a, torch.Tensor | np.ndarray):
        return _same_data(a, b)
    if isinstance(a, TypedTensor):
        return a.dtype == b.dtype and _same_data(a.data, b.data)
    if isinstance(a, SparseTensor):
        names = [field.name for field in dataclasses.fields(a)]
        return all(_same_literal(getattr(a, name), getattr(b, name)) for name in names)
    return _same_type(a, b) if isinstance(a, TensorType | SequenceType | OptionalType | MapType) else bool(a == b)
