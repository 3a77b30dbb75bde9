"""Operator records: all that the compiler knows about an operator, in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch

from graphopt.ir import Dim, Node, ValueType

if TYPE_CHECKING:
    from graphopt.ops.relation import Relation, Shrinkage

#: Types of the outputs from the types (and known small contents) of the inputs. Raises ShapeError when they cannot fit.
Infer: TypeAlias = Callable[[Node], Sequence[ValueType]]
#: Contents of small integer outputs, as object arrays of `Dim`, where the contents of the inputs are known.
Evaluate: TypeAlias = Callable[[Node], Sequence[np.ndarray | None]]
#: torch computation: tensors (None for a left-out input) by position, attributes by keyword.
Compute: TypeAlias = Callable[..., Any]
#: Which indices of the operands' dimensions belong together.
Relate: TypeAlias = Callable[[Node], "Relation | None"]
#: Multiply-accumulates of one application.
Cost: TypeAlias = Callable[[Node], Dim]
#: Adapts attributes and shape-like inputs after operands have lost indices.
Shrink: TypeAlias = Callable[[Node, "Shrinkage"], None]


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


@dataclass(frozen=True)
class Operator:
    """What the compiler knows about one operator.

    Every field but the name may be missing; what is missing makes the operator a barrier for whoever asks about it.

    Attributes:
        name: operator name in the vocabulary.
        domain: dialect; "" is standard ONNX.
        infer: output types.
        compute: the torch computation. Its keyword-only parameters are the operator's attributes, their defaults the
            attributes' defaults; it returns a tensor, or a tuple with one entry per output. Two keywords are no
            attributes: one that takes `outputs` is told how many outputs the node has, to save itself the costly rest;
            one that takes `input_types` is told the element types (as numbers) of the node's inputs, for those that
            travel in the carrier of another type.
        relate: channel relation, for coupling.
        macs: multiply-accumulates; none means that the operator does no multiply-accumulates worth counting.
        evaluate: contents of small integer outputs (shape arithmetic).
        shrink: what has to change in the node itself when its operands lose indices.
        inline: the torch backend may trace through `compute` instead of calling it (no Python control flow on values
            or shapes inside).
        elementwise: output element i depends on elements i of the inputs only (with broadcasting).
        commutative: the first two inputs may be exchanged.
        random: gives different results on every run, so it is neither folded nor shared.
        homogeneous: positive factors, one for each index of a dimension of input 0 that goes through to the output
            alone, come out again: ``f(s * x) = s * f(x)``.
        moves: the outputs hold elements of input 0, each as it was.
        joins: the output holds the elements of all inputs, each as it was, where the relation's selections say.
        shape_only: nothing of the inputs is read but their shapes.
        normalises: tells which dimensions of input 0 are reduced to statistics; pruning such a dimension restricts the
            operator to what is kept.
        reduces: what these dimensions hold: features (of a normalisation), alternatives (of which TopK takes some, and
            which Softmax weighs against each other), or terms (of a sum).
        addends: inputs of which nothing is multiplied (biases, masks, states), where they may have a matrix's rank.
        codes: inputs that hold quantized numbers, with the inputs that hold their scale (``None``: it is applied
            elsewhere) and zero point.
    """

    name: str
    infer: Infer | None = None
    compute: Compute | None = None
    relate: Relate | None = None
    macs: Cost | None = None
    evaluate: Evaluate | None = None
    shrink: Shrink | None = None
    domain: str = ""
    inline: bool = False
    elementwise: bool = False
    commutative: bool = False
    random: bool = False
    homogeneous: bool = False
    moves: bool = False
    joins: bool = False
    shape_only: bool = False
    normalises: Callable[[Node], tuple[int, ...]] | None = None
    reduces: Literal["features", "alternatives", "terms"] = "features"
    addends: Collection[int] = ()
    codes: Mapping[int, tuple[int | None, int]] = field(default_factory=dict)

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attribute names and defaults (`REQUIRED` where there is none), read off the signature of `compute`."""
        if self.compute is None:
            return {}
        try:
            parameters = inspect.signature(self.compute).parameters.values()
        except ValueError:  # built-in torch functions have no signature, and no attributes either
            return {}
        return {
            p.name: REQUIRED if p.default is p.empty else p.default
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and p.name not in _TOLD
        }

    @cached_property
    def _known(self) -> frozenset[str] | None:
        """The attributes that `compute` takes; ``None`` when it takes any."""
        if self.compute is None:
            return None
        try:
            parameters = inspect.signature(self.compute).parameters.values()
        except ValueError:
            return frozenset()
        return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else frozenset(self.attributes)

    def unknown_attribute(self, node: Node) -> str | None:
        """The name of an attribute of `node` that `compute` does not take, if there is one."""
        known = self._known
        if known is None or node.attributes.keys() <= known:
            return None
        return min(node.attributes.keys() - known)

    @cached_property
    def _asks(self) -> frozenset[str]:
        try:
            return _TOLD & (inspect.signature(self.compute).parameters.keys() if self.compute else set())
        except ValueError:
            return frozenset()

    def told(self, node: Node) -> dict[str, Any]:
        """What `compute` wants to know about `node` besides inputs and attributes, as keyword arguments."""
        facts: dict[str, Any] = {}
        if "outputs" in self._asks:
            facts["outputs"] = len(node.outputs)
        if "input_types" in self._asks:
            facts["input_types"] = tuple(0 if v is None else int(v.tensor_type.dtype) for v in node.inputs)
        return facts


#: Keywords of computations that are no attributes.
_TOLD = frozenset({"outputs", "input_types"})

C = TypeVar("C", bound=Compute)


def hands_on(to: Compute, *, without: Collection[str] = ()) -> Callable[[C], C]:
    """Decorator of a computation whose ``**attributes`` go to another's: it has the other's attributes and defaults.

    Args:
        to: the other computation.
        without: attributes of the other that the operator does not have.
    """

    def decorate(function: C) -> C:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        left_out = {*without, *_TOLD, *(p.name for p in own)}
        others = inspect.signature(to).parameters.values()
        more = [p for p in others if p.kind is p.KEYWORD_ONLY and p.name not in left_out]
        function.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]  # what inspect reads
        return function

    return decorate


_RECORDS: dict[tuple[str, str], Operator] = {}
_DOMAINS: dict[str, Callable[[Node], Operator]] = {}


def register(*operators: Operator) -> None:
    """Adds records to the vocabulary. Raises ValueError for an operator that is there already."""
    for operator in operators:
        key = (operator.domain, operator.name)
        if key in _RECORDS:
            raise ValueError(f"operator {key} is registered twice")
        _RECORDS[key] = operator


def find(op: str, domain: str = "") -> Operator | None:
    """The record of an operator, or ``None`` when the vocabulary does not have it."""
    return _RECORDS.get((domain, op))


def register_domain(domain: str, record: Callable[[Node], Operator]) -> None:
    """Adds a dialect whose operators are not listed: `record` makes the record of any node in it."""
    _DOMAINS[domain] = record


def record_of(node: Node) -> Operator | None:
    """The record of a node's operator."""
    if node.domain in _DOMAINS:
        return _DOMAINS[node.domain](node)
    return _RECORDS.get((node.domain, node.op))


def operators() -> list[Operator]:
    """All records, by domain and name."""
    return [_RECORDS[key] for key in sorted(_RECORDS)]


def attribute(node: Node, name: str) -> Any:
    """The attribute of a node, or the operator's default for it. Raises KeyError when it is required and missing."""
    value = node.attributes.get(name, REQUIRED)
    if value is not REQUIRED:
        return value
    record = record_of(node)
    value = record.attributes[name] if record else REQUIRED
    if value is REQUIRED:
        raise KeyError(f"{node.describe()} has no attribute '{name}'")
    return value


def how_to_compute(node: Node) -> str:
    """What a person can do about an operator that the vocabulary cannot compute."""
    root = None if node.graph is None else node.graph.root
    if node.domain and root is not None and root.model.functions:
        return "if it is a function of the model, load that with inline=True"
    return "register an Operator record with a compute function for it"


def execute(node: Node, inputs: Sequence[torch.Tensor | None]) -> tuple[Any, ...]:
    """Runs a node on tensors and returns one entry per output that the computation gives.

    Raises UnsupportedOperatorError when the vocabulary cannot compute the operator.
    """
    from graphopt.errors import UnsupportedOperatorError
    from graphopt.ops.dispatch import stand_in_for

    record = record_of(node)
    if record is None or record.compute is None:
        raise UnsupportedOperatorError(
            f"operator {node.domain + '::' if node.domain else ''}{node.op} cannot be executed with torch",
            where=node.describe(),
            hint=how_to_compute(node),
        )
    unknown = record.unknown_attribute(node)
    if unknown is not None:
        raise UnsupportedOperatorError(
            f"{node.op} has an attribute '{unknown}', which is not known",
            where=node.describe(),
            hint=how_to_compute(node),
        )
    keywords = {**node.attributes, **record.told(node)}
    other = stand_in_for(node, inputs)
    result = record.compute(*inputs, **keywords) if other is None else other(node.op, *inputs, **keywords)
    return result if isinstance(result, tuple) else (result,)
