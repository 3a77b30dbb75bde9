"""The text form, written: see `graphopt.ir.text` for what it looks like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from graphopt.ir.dense import element_texts, nested, quote, quote_bytes
from graphopt.ir.graph import Graph
from graphopt.ir.lexer import BARE_VALUE, WORD
from graphopt.ir.literals import EmptyList, SparseTensor, TypedTensor
from graphopt.ir.node import Node
from graphopt.ir.signature import Leaf, ModelInfo, Signature
from graphopt.ir.types import UNKNOWN, DType, MapType, OptionalType, SequenceType, TensorType, ValueType
from graphopt.ir.value import Parameter, Value

VERSION = 1
# Constants up to this many elements are part of the text.
MAX_INLINE = 16
_INDENT = "  "
_NO_CARRIER = (DType.UNDEFINED, DType.STRING)
_CARRIERS = {dtype.torch: dtype for dtype in reversed(DType) if dtype not in _NO_CARRIER}
_TYPES = (TensorType, SequenceType, OptionalType, MapType)


class Printer:
    """Writes one graph.

    Args:
        weights: write the elements of all constants, not only of small ones.

    Attributes:
        elided: the tensors that were left out of the text, by the key that stands for them there.
    """

    def __init__(self, weights: bool = False) -> None:
        self.elided: dict[str, torch.Tensor] = {}
        self._weights = weights
        self._keys: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._names: dict[Value, str] = {}
        self._copies: dict[str, int] = {}
        self._types: dict[ValueType, str] = {}

    def document(self, graph: Graph) -> str:
        """The text of an outermost graph."""
        return f"graphopt {VERSION}\n{self.graph(graph, '')}\n"

    def graph(self, graph: Graph, indent: str) -> str:
        """The text of a graph or body, whose first line is not indented."""
        inner = indent + _INDENT
        head = f"graph {quote(graph.name)}{self._about(graph, inner)}"
        inputs = [self._source(value) for value in graph.inputs]
        if inputs and graph.owner is None:
            separator = ",\n" + inner + _INDENT
            listed = f"(\n{inner}{_INDENT}{separator.join(inputs)}\n{inner})"
        else:
            listed = f"({', '.join(inputs)})"
        lines = [f"{head}{listed} {{"]
        lines += [inner + self._source(value) for value in graph.constants]
        lines += [inner + self._node(node, inner) for node in graph.nodes]
        lines.append(inner + self._return(graph))
        lines.append(indent + "}")
        return "\n".join(lines)

    def _about(self, graph: Graph, indent: str) -> str:
        text = ""
        if graph.model != ModelInfo():
            default = vars(ModelInfo())
            told = {name: value for name, value in _fields_of(graph.model).items() if value != default[name]}
            text += f"\n{indent}model {self._record(told, indent)}"
        if graph.signature is not None:
            text += f"\n{indent}{self._signature(graph.signature, indent)}"
        notes = self._notes(graph)
        if text:
            text += f"\n{indent}{notes.lstrip()}"
        else:
            text = notes
        return text if text.endswith((" ", "\n")) else f"{text} "

    def _signature(self, signature: Signature, indent: str) -> str:
        fields = _fields_of(signature)
        try:
            for name in ("in_tree", "out_tree"):
                fields[name] = pytree.treespec_dumps(fields[name])
        except (NotImplementedError, TypeError, ValueError) as error:
            # Containers that torch cannot name in a file; the graph itself does not depend on them.
            return f"// a signature that cannot be written: {' '.join(str(error).split())}"
        if not all(_is_plain(leaf.literal) for leaf in (*signature.inputs, *signature.outputs)):
            return "// a signature that cannot be written: an argument is an object"
        return f"signature {self._record(fields, indent)}"

    def _notes(self, item: Graph | Node | Value) -> str:
        text = f" doc {quote(item.doc)}" if item.doc else ""
        if item._metadata:
            text += f" meta {self._mapping(item._metadata, '')}"
        return text

    # -- values

    def name(self, value: Value) -> str:
        """The name of a value in this text: its own, with a number where another has it already."""
        found = self._names.get(value)
        if found is None:
            own = value.name
            count = self._copies[own] = self._copies.get(own, 0) + 1
            bare = own if not own or BARE_VALUE.fullmatch(own) else quote(own)
            found = f"%{bare}" if own and count == 1 else f"%{bare}#{count}"
            self._names[value] = found
        return found

    def type(self, kind: ValueType) -> str:
        """The text of a type."""
        text = self._types.get(kind)
        if text is None:
            text = self._types[kind] = str(kind)
        return text

    def _typed(self, value: Value, name: str) -> str:
        kind = "" if value.type == UNKNOWN else f": {self.type(value.type)}"
        return f"{name}{kind}{self._notes(value)}"

    def _source(self, value: Value) -> str:
        """An input or a constant."""
        text = self._typed(value, self.name(value))
        if value._data is not None:
            text += f" = {self._dense(value._data, value.tensor_type, _hint(value))}"
        return text if value.parameter is None else f"{text} {_parameter(value.parameter)}"

    def _node(self, node: Node, indent: str) -> str:
        results = [self._typed(v, self.name(v) if v.name or v._uses else "_") for v in node.outputs]
        inputs = ["none" if value is None else self.name(value) for value in node.inputs]
        text = f"{', '.join(results) or '()'} = {_operator(node)}({', '.join(inputs)})"
        if node.attributes:
            hint = next((v.name for v in node.outputs if v.name), node.op)
            text += f" {self._record(node.attributes, indent, hint)}"
        if node.name:
            text += f" name {quote(node.name)}"
        if node.origin.module:
            text += f" in {quote(node.origin.module)}"
        if node.origin.sources:
            text += f" from {_strings(node.origin.sources)}"
        if node.origin.passes:
            text += f" by {_strings(node.origin.passes)}"
        return text + self._notes(node)

    def _return(self, graph: Graph) -> str:
        listed = []
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            text = self.name(value)
            listed.append(text if text == f"%{name}" else f"{text} as {quote(name)}")
        return f"return {', '.join(listed)}".rstrip()

    # -- attributes

    def _record(self, items: Mapping[str, Any], indent: str, hint: str = "") -> str:
        return f"{{{', '.join(self._fields(items, indent, hint))}}}"

    def _fields(self, items: Mapping[str, Any], indent: str, hint: str) -> Iterator[str]:
        for name, value in items.items():
            key = name if WORD.fullmatch(name) else quote(name)
            yield f"{key} = {self.literal(value, indent, f'{hint}.{name}')}"

    def _mapping(self, items: Mapping[str, Any], indent: str) -> str:
        return f"{{{', '.join(f'{quote(str(k))}: {self.literal(v, indent, str(k))}' for k, v in items.items())}}}"

    def literal(self, value: Any, indent: str, hint: str) -> str:
        """The text of an attribute.

        Args:
            value: the attribute.
            indent: of the line that it stands in.
            hint: what a tensor in it may be called in the side file.

        What no attribute can hold is shown, but cannot be parsed.
        """
        match value:
            case None:
                return "none"
            case bool():
                return "true" if value else "false"
            case DType():
                return f"dtype.{value}"
            case int():
                return str(value)
            case float():
                return _float(value)
            case str():
                return quote(value)
            case bytes():
                return quote_bytes(value)
            case EmptyList():
                return f"empty {quote(value.kind)}"
            case tuple() | list():
                return f"[{', '.join([self.literal(item, indent, hint) for item in value])}]"
            case Graph():
                return self.graph(value, indent)
        if isinstance(value, _TYPES):
            return f"type<{self.type(value)}>"
        return self._rare_literal(value, indent, hint)

    def _rare_literal(self, value: Any, indent: str, hint: str) -> str:
        match value:
            case torch.Tensor() | np.ndarray():
                return self._dense(value, UNKNOWN, hint)
            case TypedTensor():
                return f"typed {value.dtype} {self._dense(value.data, UNKNOWN, hint)}"
            case SparseTensor():
                return f"sparse {self._record(_fields_of(value), indent, hint)}"
            case Leaf(index=None):
                return f"literal({self.literal(value.literal, indent, hint)})"
            case Leaf(number=True):
                return f"number({value.index})"
            case Leaf():
                return str(value.index)
            case Mapping():
                return self._mapping(value, indent)
        return f"unreadable {quote(repr(value))}"

    def _dense(self, data: torch.Tensor | np.ndarray, declared: TensorType, hint: str) -> str:
        """Elements, or a key for them, with the type where it is not the declared one."""
        if not isinstance(data, torch.Tensor):
            told = "" if declared == TensorType(DType.STRING, data.shape) else f": string[{_sizes(data)}]"
            return f"dense<{nested(element_texts(data), data.shape)}{told}>"
        carrier = None if declared.dtype in _NO_CARRIER else declared.dtype.torch
        if carrier == data.dtype and declared.shape == tuple(data.shape):
            told = ""
        elif data.dtype in _CARRIERS:
            told = f": {_CARRIERS[data.dtype]}[{_sizes(data)}]"
        else:
            return f"unreadable {quote(f'a tensor of {data.dtype}')}"
        if data.is_meta:
            return f"dense<meta{told}>"
        if data.numel() > MAX_INLINE and not self._weights:
            return f"dense<{quote(self._key(data, hint))}{told}>"
        return f"dense<{nested(element_texts(data), tuple(data.shape))}{told}>"

    def _key(self, data: torch.Tensor, hint: str) -> str:
        key = self._keys.get(id(data))
        if key is None:
            key = hint
            while key in self.elided:
                number = self._numbers[hint] = self._numbers.get(hint, 1) + 1
                key = f"{hint}#{number}"
            self._keys[id(data)] = key
            self.elided[key] = data
        return key


def _sizes(data: torch.Tensor | np.ndarray) -> str:
    return ", ".join(map(str, data.shape))


def _fields_of(item: Any) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}


def _is_plain(literal: Any) -> bool:
    if isinstance(literal, tuple | list):
        return all(map(_is_plain, literal))
    return literal is None or isinstance(literal, bool | int | float | str | bytes)


def _hint(value: Value) -> str:
    return value.parameter.name if value.parameter is not None else value.name or "constant"


def _parameter(parameter: Parameter) -> str:
    text = f"{'buffer' if parameter.buffer else 'parameter'} {quote(parameter.name)}"
    if parameter.aliases:
        text += f" aliases {_strings(parameter.aliases)}"
    if parameter.places:
        text += f" places {list(parameter.places)}"
    if not parameter.persistent:
        text += " transient"
    return text if parameter.requires_grad else f"{text} frozen"


def _operator(node: Node) -> str:
    domain, op, overload = (
        part if WORD.fullmatch(part) else quote(part) for part in (node.domain, node.op, node.overload)
    )
    text = f"{domain}::{op}" if node.domain else op
    return f"{text}@{overload}" if node.overload else text


def _float(value: float) -> str:
    text = repr(float(value))
    return text if not text.lstrip("-").isdigit() else f"{text}.0"


def _strings(items: Iterable[str]) -> str:
    return f"[{', '.join(map(quote, items))}]"
