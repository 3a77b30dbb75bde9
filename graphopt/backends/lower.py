"""Torch operators that ONNX lacks, written out in operators that it has when a graph becomes a model.

In the graph they stay as they are: torch computes them exactly, and can differentiate them. ONNX has no arithmetic on
complex numbers, so a complex tensor is written as its real and imaginary parts, in a last dimension of two; that is
also what its DFT and STFT give. Torch's own decompositions have been tried by the time a graph was captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import onnx
import torch

from graphopt.backends.onnx_opset import versions_of
from graphopt.errors import ShapeError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, Shape, Value
from graphopt.ops import aten
from graphopt.ops.builder import Builder
from graphopt.ops.update import merge


class NoLowering(Exception):
    """Raised by a rule that has no form for these arguments; the reason is the message."""


@dataclass(frozen=True)
class Complex:
    """Stands for a complex tensor.

    Attributes:
        parts: real and imaginary parts, [..., 2].
    """

    parts: Value

    @property
    def rank(self) -> int:
        """Of the complex tensor."""
        return rank_of(self.parts) - 1


#: Element types that ONNX has, and no operator takes.
COMPLEX = frozenset({DType.COMPLEX64, DType.COMPLEX128})

#: Takes a builder and the operator's arguments under torch's own names (a `Value` or a `Complex` for each tensor);
#: returns a `Value`, a `Complex`, or a tuple of them with ``None`` for a result that nothing reads.
TorchRule: TypeAlias = Callable[..., Any]
#: Takes a builder, a standard operator's node and its inputs, of which one is `Complex`; returns what stands for it.
ComplexRule: TypeAlias = Callable[[Builder, Node, Sequence[Any]], Any]

#: By name and overload, as in ``"fft_rfft.default"``.
TORCH_RULES: dict[str, TorchRule] = {}
#: By operator.
COMPLEX_RULES: dict[str, ComplexRule] = {}

_R = TypeVar("_R", bound=Callable[..., Any])


def lowers(*names: str) -> Callable[[_R], _R]:
    """Registers a rule for torch operators; ``.default`` may be left out."""

    def decorate(rule: _R) -> _R:
        TORCH_RULES.update({name if "." in name else f"{name}.default": rule for name in names})
        return rule

    return decorate


def lowers_complex(*ops: str) -> Callable[[_R], _R]:
    """Registers a rule for standard operators on complex tensors."""

    def decorate(rule: _R) -> _R:
        COMPLEX_RULES.update(dict.fromkeys(ops, rule))
        return rule

    return decorate


# -- what rules build with


def rank_of(value: Value) -> int:
    """The rank. Raises NoLowering when it is not known."""
    return len(shape_of(value))


def shape_of(value: Value) -> Shape:
    """The shape. Raises NoLowering when not even the rank is known."""
    if value.shape is None:
        raise NoLowering("the rank of an operand is unknown")
    return value.shape


def extent_of(value: Value, axis: int) -> int:
    """The extent of a dimension. Raises NoLowering when it depends on the input."""
    extent = shape_of(value)[axis]
    if not isinstance(extent, int):
        raise NoLowering(f"the extent of dimension {axis} is open")
    return extent


def real(item: Any) -> Value:
    """An operand that must be a real tensor. Raises NoLowering for another."""
    if not isinstance(item, Value) or item.dtype is DType.UNDEFINED:
        raise NoLowering("an operand is no real tensor")
    return item


def scalar(b: Builder, number: float, like: Value) -> Value:
    """A 0-d constant of the element type of `like`."""
    return b.constant(torch.tensor(number, dtype=like.dtype.torch), dtype=like.dtype)


def numbers(b: Builder, items: Sequence[float], like: Value) -> Value:
    """A 1-D constant of the element type of `like`."""
    return b.constant(torch.tensor(list(items), dtype=like.dtype.torch), dtype=like.dtype)


def size(b: Builder, value: Value, axis: int) -> Value:
    """The extent of a dimension as a 1-D tensor of one element, a constant where it is known."""
    axis %= rank_of(value)
    extent = shape_of(value)[axis]
    return b.constant([extent]) if isinstance(extent, int) else b.Shape(value, start=axis, end=axis + 1)


def cut(b: Builder, value: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
    """``value[start:end:step]`` along an axis."""
    return b.Slice(value, [start], [end], [axis], [step])


def polynomial(b: Builder, coefficients: Sequence[float], x: Value) -> Value:
    """A polynomial by Horner's rule, the coefficient of the highest power first."""
    total = scalar(b, coefficients[0], x)
    for each in coefficients[1:]:
        total = b.Add(b.Mul(total, x), scalar(b, each, x))
    return total


# -- the graph

# Why a node stays that reads complex numbers which nothing stands for.
_BLOCKED = "it reads complex numbers"


def lowered(graph: Graph) -> Graph:
    """`graph` itself when it has no torch operators, else a copy in which standard ones stand for those with a rule.

    Raises:
        UnsupportedOperatorError: torch operators without a form in ONNX, or complex numbers where ONNX has none; names
            all of them.
    """
    if not any(node.domain == aten.DOMAIN for node in graph.walk()):
        return graph
    # The rules fill the tables when they are imported, which few models need.
    from graphopt.backends import lower_complex, lower_fourier, lower_linalg, lower_select, lower_special  # noqa: F401

    copy = graph.clone()
    lowering = _Lowering(copy)
    for node in list(copy.walk()):
        lowering.step(node)
    lowering.finish()
    return copy


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._pairs: dict[Value, Value] = {}
        self._done: dict[Node, None] = {}
        self._kept: dict[Node, str] = {}
        functions = [onnx.FunctionProto.FromString(raw) for raw in graph.model.functions]
        self._local = {function.name for function in functions if not function.domain}
        self._made: list[Node] = []

    def step(self, node: Node) -> None:
        """Puts in front of a node what stands for it, if there is a rule; the node stays for now."""
        assert node.graph is not None, "a walk gives linked nodes"
        b = Builder(node.graph, node, node.origin)
        try:
            with self._graph.transaction():
                results = self._results(b, node)
        except (NoLowering, ShapeError) as error:
            self._keep(node, str(error))
            return
        if results is None:
            self._keep(node, "")
            return
        for old, new in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=False):
            self._stand_in(node, old, new)
        self._done[node] = None
        self._made += b.nodes

    def _keep(self, node: Node, reason: str) -> None:
        if node.domain == aten.DOMAIN:
            self._kept[node] = reason

    def _results(self, b: Builder, node: Node) -> Any:
        operands = [None if value is None else self._operand(b, value) for value in node.inputs]
        if node.domain == aten.DOMAIN:
            torch_rule = TORCH_RULES.get(f"{node.op}.{node.overload or 'default'}")
            if torch_rule is None or "args" not in node.attributes:
                return None
            args, kwargs = aten.unpack(node.attributes["args"], operands, lambda size: size)
            return torch_rule(b, *args, **kwargs)
        rule = COMPLEX_RULES.get(node.op) if not node.domain else None
        touched = node.output.dtype in COMPLEX or any(isinstance(operand, Complex) for operand in operands)
        return rule(b, node, operands) if rule and touched else None

    def _operand(self, b: Builder, value: Value) -> Value | Complex:
        if value in self._pairs:
            return Complex(self._pairs[value])
        if value.is_constant and value.data is not None and value.data.is_complex():
            return Complex(b.constant(torch.view_as_real(value.data.resolve_conj())))
        if value.dtype in COMPLEX:
            raise NoLowering(_BLOCKED)
        return value

    def _stand_in(self, node: Node, old: Value, new: Any) -> None:
        if isinstance(new, Complex):
            self._pairs[old] = new.parts
            return
        if new is None:
            return
        if new.producer is not None and not new.is_output and new not in old.uses:
            new.type = merge(old.type, new.type, node)
            new.name = new.name or old.name
        old.replace_uses(new)

    def finish(self) -> None:
        """Erases what nothing reads any more. Raises UnsupportedOperatorError for what is left."""
        for node in reversed(list(self._done)):
            if node.graph is not None and not any(value.uses for value in node.outputs):
                node.graph.erase(node)
        self._graph.sweep([value for node in self._made for value in node.outputs])
        problems = [
            f"input '{value.name}' of complex numbers" for value in self._graph.inputs if value.dtype in COMPLEX
        ]
        for node in self._graph.walk():
            reason = self._why_left(node)
            if reason is not None:
                problems.append(reason)
        outputs = zip(self._graph.output_names, self._graph.outputs, strict=True)
        problems += [f"output '{name}' of complex numbers" for name, value in outputs if value in self._pairs]
        if problems:
            raise UnsupportedOperatorError(
                f"ONNX has no operator for {', '.join(sorted(set(problems)))}",
                hint="keep the model in torch (to_torch), or replace what uses these operators; let complex numbers "
                "come and go as real and imaginary parts (torch.view_as_real, torch.view_as_complex)",
            )

    def _why_left(self, node: Node) -> str | None:
        """What ONNX lacks for a node that is still there; ``None`` when it lacks nothing, or an operand's operator."""
        if node in self._kept:
            reason = self._kept[node]
            return f"aten::{node.op}{f' ({reason})' if reason else ''}" if reason != _BLOCKED else None
        if node.domain or node in self._done:
            return None
        if not versions_of(node.op) and node.op not in self._local:
            return node.op
        return f"{node.op} (on complex numbers)" if any(value in self._pairs for value in node.inputs) else None


__all__ = [
    "COMPLEX", "COMPLEX_RULES", "TORCH_RULES", "Complex", "NoLowering", "cut", "extent_of", "lowered", "lowers",
    "lowers_complex", "numbers", "polynomial", "rank_of", "real", "scalar", "shape_of", "size",
]  # fmt: skip
