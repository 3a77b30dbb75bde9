"""Attribute literals, types and tensors of the text form."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.ir.dense import tensor_of
from graphopt.ir.dims import Dim, parse_dim
from graphopt.ir.graph import Graph
from graphopt.ir.lexer import Lexer
from graphopt.ir.literals import EmptyList, SparseTensor, TypedTensor
from graphopt.ir.signature import Leaf
from graphopt.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, ValueType

_NUMBER = re.compile(r"#\d+\Z")
_STRUCTURE = re.compile(r'[(),]|"(?:[^"\\]|\\.)*"')
_CONSTANTS = {"none": None, "true": True, "false": False}


def without_number(name: str) -> str:
    """A value's token without the number that tells it from others of the same name."""
    return _NUMBER.sub("", name)


class LiteralParser:
    """Reads what may stand in an attribute.

    Args:
        lexer: over the text.
        weights: the tensors that the text names; ``None`` puts meta tensors in their places.
        graph: reads a graph.
    """

    def __init__(self, lexer: Lexer, weights: Mapping[str, torch.Tensor] | None, graph: Callable[[], Graph]) -> None:
        self._lexer = lexer
        self._weights = weights
        self._types: dict[tuple[str, str, str], TensorType] = {}
        self._words: dict[str, Callable[[], Any]] = {
            "bytes": self._bytes,
            "dense": self.dense,
            "empty": lambda: EmptyList(lexer.string()),
            "graph": graph,
            "literal": self._leaf,
            "number": self._number_leaf,
            "sparse": self._sparse,
            "type": self._type_literal,
            "typed": self._typed,
        }

    # -- collections

    def record(self) -> dict[str, Any]:
        """Reads ``{name = literal, ...}``."""
        return self._braces("=")

    def mapping(self) -> dict[str, Any]:
        """Reads ``{"name": literal, ...}``."""
        return self._braces(":")

    def _braces(self, separator: str) -> dict[str, Any]:
        lexer = self._lexer
        lexer.expect("{")
        items: dict[str, Any] = {}
        while not lexer.accept("}"):
            start = lexer.start
            name = lexer.string() if lexer.kind == "string" else lexer.take("word", "a name")
            if name in items:
                lexer.fail(f"'{name}' is given twice", start)
            lexer.expect(separator)
            items[name] = self.literal()
            if not lexer.accept(",") and not lexer.sees("}"):
                lexer.expect(",")
        return items

    def strings(self) -> tuple[str, ...]:
        """Reads a list of strings."""
        start, items = self._lexer.start, self.literal()
        if not isinstance(items, tuple) or not all(isinstance(item, str) for item in items):
            self._lexer.fail("expected a list of strings", start)
        return items

    def integers(self) -> tuple[int, ...]:
        """Reads a list of integers."""
        start, items = self._lexer.start, self.literal()
        if not isinstance(items, tuple) or not all(type(item) is int for item in items):
            self._lexer.fail("expected a list of integers", start)
        return items

    def literal(self) -> Any:
        """Reads an attribute's value."""
        lexer = self._lexer
        if lexer.kind == "number":
            return self._number()
        if lexer.kind == "string":
            return lexer.string()
        if lexer.sees("["):
            return tuple(self._list(self.literal))
        if lexer.sees("{"):
            return self.mapping()
        if lexer.kind != "word":
            lexer.fail(f"expected a value, found {lexer.found}")
        return self._word()

    def _list(self, item: Callable[[], Any]) -> list[Any]:
        lexer = self._lexer
        lexer.expect("[")
        items = []
        while not lexer.accept("]"):
            items.append(item())
            if not lexer.accept(",") and not lexer.sees("]"):
                lexer.expect(",")
        return items

    def _number(self) -> int | float:
        lexer = self._lexer
        start, text = lexer.start, lexer.advance()
        try:
            return int(text) if text.lstrip("-").isdigit() else float(text)
        except ValueError:
            lexer.fail(f"'{text[:40]}' is no number that can be read here", start)

    def _word(self) -> Any:
        lexer = self._lexer
        word = lexer.text
        if word in _CONSTANTS:
            lexer.advance()
            return _CONSTANTS[word]
        if word.startswith("dtype."):
            return self._dtype(word.removeprefix("dtype."))
        if word == "unreadable":
            lexer.fail("this stands for something that cannot be written as text")
        read = self._words.get(word)
        if read is None:
            lexer.fail(f"expected a value, found '{word}'")
        if word not in ("dense", "graph"):
            lexer.advance()
        return read()

    # -- single literals

    def _dtype(self, name: str) -> DType:
        try:
            found = DType.parse(name)
        except KeyError:
            self._lexer.fail(f"'{name}' is no element type")
        self._lexer.advance()
        return found

    def _bytes(self) -> bytes:
        start, text = self._lexer.start, self._lexer.string()
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            self._lexer.fail(f"malformed base64: {error}", start)

    def _leaf(self) -> Leaf:
        self._lexer.expect("(")
        leaf = Leaf(None, self.literal())
        self._lexer.expect(")")
        return leaf

    def _number_leaf(self) -> Leaf:
        self._lexer.expect("(")
        leaf = Leaf(int(self._lexer.take("number", "the index of an output")), number=True)
        self._lexer.expect(")")
        return leaf

    def _type_literal(self) -> ValueType:
        self._lexer.expect("<")
        found = self.type()
        self._lexer.expect(">")
        return found

    def _typed(self) -> TypedTensor:
        lexer = self._lexer
        dtype = self._dtype(lexer.text)
        start, data = lexer.start, self.dense()
        if not isinstance(data, torch.Tensor):
            lexer.fail("expected a tensor of numbers", start)
        return TypedTensor(data, dtype)

    def _sparse(self) -> SparseTensor:
        start, fields = self._lexer.start, self.record()
        try:
            return SparseTensor(**fields)
        except TypeError as error:
            self._lexer.fail(f"malformed sparse tensor: {error}", start)

    # -- types

    def type(self) -> ValueType:
        """Reads a type."""
        lexer = self._lexer
        start = lexer.start
        tensor = lexer.tensor_type()
        if tensor is not None:
            return self._tensor_type(tensor, start)
        word = lexer.take("word", "a type such as float32[batch, 3]")
        if word not in ("seq", "optional", "map"):
            lexer.fail(f"'{word}' is no type", start)
        lexer.expect("(")
        if word == "map":
            key = self._dtype(lexer.text)
            lexer.expect(",")
            kind: ValueType = MapType(key, self.type())
        else:
            kind = SequenceType(self.type()) if word == "seq" else OptionalType(self.type())
        lexer.expect(")")
        return kind

    def _tensor_type(self, texts: tuple[str, str, str], start: int) -> TensorType:
        found = self._types.get(texts)
        if found is None:
            sparse, name, dims = texts
            try:
                dtype = DType.parse(name)
            except KeyError:
                self._lexer.fail(f"'{name}' is no element type", start)
            shape = None if dims.strip() == "*" else tuple(map(_dim, _split(dims)))
            found = self._types[texts] = TensorType(dtype, shape, bool(sparse))
        return found

    # -- tensors

    def dense(self, declared: ValueType | None = None) -> torch.Tensor | np.ndarray:
        """Reads the elements of a tensor, or the key that stands for them.

        Args:
            declared: the type of the tensor where the text of the tensor tells none.
        """
        lexer = self._lexer
        start = lexer.start
        lexer.expect("dense")
        lexer.expect("<")
        meta = lexer.accept("meta")
        elements, sizes = ([], ()) if meta else self._nested()
        kind = self.type() if lexer.accept(":") else declared
        if not isinstance(kind, TensorType) or not kind.is_static or kind.dtype is DType.UNDEFINED:
            lexer.fail("a tensor needs a type with known element type and sizes", start)
        shape = tuple(d for d in kind.shape or () if isinstance(d, int))
        lexer.expect(">")
        if kind.dtype is DType.STRING and not meta:
            return self._string_array(elements, sizes, shape, start)
        if meta or (sizes == () and isinstance(elements[0], str) and elements[0].startswith('"')):
            return self._weight(None if meta else elements[0], kind, shape, start)
        self._check_sizes(sizes, shape, start)
        try:
            return tensor_of(elements, kind.dtype.torch, shape)
        except (RuntimeError, TypeError, ValueError) as error:
            lexer.fail(f"malformed tensor: {error}", start)

    def _check_sizes(self, sizes: tuple[int, ...], shape: tuple[int, ...], start: int) -> None:
        if sizes != shape and not (sizes == (0,) and 0 in shape):
            self._lexer.fail(f"elements of shape {sizes} have a type of shape {shape}", start)

    def _string_array(
        self, elements: list[Any], sizes: tuple[int, ...], shape: tuple[int, ...], start: int
    ) -> np.ndarray:
        self._check_sizes(sizes, shape, start)
        array = np.empty(len(elements), dtype=object)
        for index, element in enumerate(elements):
            if isinstance(element, str) and element.startswith('"'):
                element = self._lexer.unquoted(element, start)
            elif not isinstance(element, bytes):
                self._lexer.fail("elements of type string are strings or bytes", start)
            array[index] = element
        return array.reshape(shape)

    def _weight(self, token: str | None, kind: TensorType, shape: tuple[int, ...], start: int) -> torch.Tensor:
        lexer = self._lexer
        if kind.dtype is DType.STRING:
            lexer.fail("strings are always part of the text", start)
        if token is None or self._weights is None:
            try:
                return torch.empty(shape, dtype=kind.dtype.torch, device="meta")
            except (RuntimeError, TypeError) as error:  # sizes that no tensor can have
                lexer.fail(f"malformed tensor: {error}", start)
        key = lexer.unquoted(token, start)
        tensor = self._weights.get(key)
        if tensor is None:
            lexer.fail(f"there are no weights called '{key}'", start)
        if tensor.dtype != kind.dtype.torch and tensor.dtype == torch.uint8:
            # Element types that the side file does not know are stored as bytes.
            tensor = _reinterpreted(tensor, kind.dtype.torch, shape)
        if tensor.dtype != kind.dtype.torch or tuple(tensor.shape) != shape:
            lexer.fail(f"the weights '{key}' are {tensor.dtype} of shape {tuple(tensor.shape)}, not {kind}", start)
        return tensor

    def _nested(self) -> tuple[list[Any], tuple[int, ...]]:
        """The elements in row-major order, and the shape that the brackets have."""
        start = self._lexer.start
        if not self._lexer.sees("["):
            return [self._element()], ()
        parts = self._list(self._nested)
        if not parts:
            return [], (0,)
        inner = parts[0][1]
        if any(sizes != inner for _, sizes in parts):
            self._lexer.fail("rows of different lengths", start)
        return [element for elements, _ in parts for element in elements], (len(parts), *inner)

    def _element(self) -> Any:
        """A number or string as it is written, a bool, bytes, or the two numbers of a complex one."""
        lexer = self._lexer
        if lexer.kind in ("number", "string"):
            return lexer.advance()
        if lexer.accept("("):
            real = lexer.take("number", "a number")
            lexer.expect(",")
            pair = (real, lexer.take("number", "a number"))
            lexer.expect(")")
            return pair
        if lexer.text not in ("true", "false", "bytes"):
            lexer.fail(f"expected an element, found {lexer.found}")
        return self._word()


def _reinterpreted(tensor: torch.Tensor, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    size = dtype.itemsize
    for dim in shape:
        size *= dim
    return tensor.reshape(-1).view(dtype).reshape(tuple(shape)) if tensor.numel() == size else tensor


def _split(dims: str) -> list[str]:
    """Splits at the commas that are in no parentheses and no quotes."""
    if not dims.strip():
        return []
    if "(" not in dims and '"' not in dims:
        return dims.split(",")
    parts, depth, begin = [], 0, 0
    for match in _STRUCTURE.finditer(dims):
        mark = match.group()
        depth += (mark == "(") - (mark == ")")
        if mark == "," and depth == 0:
            parts.append(dims[begin : match.start()])
            begin = match.end()
    return [*parts, dims[begin:]]


def _dim(text: str) -> Dim:
    text = text.strip()
    return int(text) if text.isdecimal() else parse_dim(text)
