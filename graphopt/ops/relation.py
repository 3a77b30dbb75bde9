"""Channel relations: which indices of an operator's operands are the same channel.

A relation labels the dimensions of the operands, as einops does. Equal labels are the same axis: index i of one goes
together with index i of the other. A dimension that is a row-major product of axes lists them, outermost first:

    Conv            "n (g i) *, (g o) i *, (g o) -> n (g o) *"
    Gemm (transB)   "m k, n k, n -> m n"

`labels` reads this notation. What a dimension is not labelled with is frozen, as is everything under a frozen label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import NamedTuple, Protocol, TypeAlias

import torch

from graphopt.ir import Dim, Node, Shape, Value

DimRef: TypeAlias = tuple[Value, int]


class Axis(NamedTuple):
    """A labelled axis of known extent."""

    label: str
    size: int


@dataclass(frozen=True)
class Selection:
    """Dimension `part` holds indices `index` of dimension `whole` (Concat, Split, Slice, Gather by constants).

    Attributes:
        part: the dimension with fewer (or repeated) indices.
        whole: the dimension that is selected from.
        index: for each index of `part` the index in `whole`; a ``range`` wherever it is contiguous.
    """

    part: DimRef
    whole: DimRef
    index: range | Sequence[int]


@dataclass
class Relation:
    """The relation of one node.

    Attributes:
        axes: for each related dimension its axes, outermost first; sizes multiply to the dimension.
        selections: dimensions that hold part of another one's indices.
        frozen: labels whose indices must all stay, with the reason.
        attributes: attributes of the node that state the size of a label (Conv's ``group``).
        positions: integer operands whose elements are indices of a dimension: an output that says what was chosen
            (TopK), an input by which it is looked up (Gather). What is looked up by a choice that was made in the graph
            may lose indices together with what was chosen from; what is looked up by anything else is frozen.
        columns: integer operands whose last dimension holds an index of each of these dimensions (GatherND).
        minimum: labels of which at least so many indices stay.
    """

    axes: dict[DimRef, tuple[Axis, ...]] = field(default_factory=dict)
    selections: list[Selection] = field(default_factory=list)
    frozen: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    positions: dict[Value, DimRef] = field(default_factory=dict)
    columns: dict[Value, tuple[DimRef, ...]] = field(default_factory=dict)
    minimum: dict[str, int] = field(default_factory=dict)

    def tie(self, label: str, size: Dim, *refs: DimRef) -> None:
        """Puts one whole axis on each of `refs`; does nothing when the size is not a number."""
        if isinstance(size, int):
            self.axes.update(dict.fromkeys(refs, (Axis(label, size),)))

    def select(self, part: DimRef, whole: DimRef, index: range | Sequence[int]) -> None:
        """States that `part` holds indices `index` of `whole`."""
        self.selections.append(Selection(part, whole, index))


class Shrinkage(Protocol):
    """What a `shrink` function may ask, after the channels to keep are decided and before the node is rewired.

    `kept` gives the indices that stay of a dimension (ascending, int64), or ``None`` when all stay.
    """

    def kept(self, value: Value, dim: int) -> torch.Tensor | None: ...

    def size(self, value: Value, dim: int) -> Dim:
        """Extent of a dimension afterwards."""
        ...

    def old_size(self, value: Value, dim: int) -> Dim:
        """Extent of a dimension before."""
        ...

    def set_constant(self, node: Node, index: int, data: torch.Tensor) -> None:
        """Makes input `index` of `node` a constant of its own that holds `data`."""
        ...


_TOKEN = re.compile(r"\(([^)]*)\)|(\*)|(\.\.\.)|([^\s()*]+)")


def labels(
    node: Node,
    notation: str,
    sizes: Mapping[str, Dim] | None = None,
    reasons: Mapping[str, str] | None = None,
    attributes: Mapping[str, str] | None = None,
) -> Relation:
    """Builds a relation from the notation ``"operand, operand -> result"``.

    An operand is a sequence of: a label; ``(a b)`` for a row-major product; ``_`` for a dimension that neither ties nor
    freezes (a broadcast 1); ``!a`` for a label that is frozen; ``...`` for any number of dimensions tied from the right
    with the other operands' (broadcast ones excepted); ``*`` for any number of frozen dimensions. An operand ``-`` is
    not related at all. Operands that are left out are skipped; labels on dimensions of unknown extent are frozen.

    Args:
        node: the node; its inputs, then its outputs, are the operands in order.
        notation: as above. Operands beyond the node's are ignored.
        sizes: sizes of labels inside products; one label of each product may be left to be computed.
        reasons: for frozen labels, why.
        attributes: attributes of the node that state the size of a label.
    """
    relation = Relation(attributes=dict(attributes or {}))
    known = tuple((name, size) for name, size in sizes.items() if isinstance(size, int)) if sizes else ()
    left, right = _operands(notation)
    for specs, values in ((left, node.inputs), (right, node.outputs)):
        for tokens, value in zip(specs, values, strict=False):
            if value is not None and tokens is not None and (shape := value.shape) is not None:
                _label_operand(relation, value, shape, tokens, known, reasons or {})
    return relation


class _Token(NamedTuple):
    """What the notation says of one dimension."""

    text: str
    names: tuple[str, ...]
    frozen: tuple[str, ...]  # those of the names that are written with "!"
    spread: bool = False  # aligned from the right with the other operands: broadcast ones take no part


@cache
def _operands(notation: str) -> tuple[tuple[tuple[str, ...] | None, ...], ...]:
    """The tokens of each operand, those of the inputs and those of the outputs; none for an operand ``-``."""
    sides = [[spec.strip() for spec in side.split(",")] for side in notation.split("->")]
    return tuple(
        tuple(None if spec == "-" else tuple(m.group(0) for m in _TOKEN.finditer(spec)) for spec in side)
        for side in sides
    )


@cache
def _tokens(texts: tuple[str, ...], rank: int) -> tuple[_Token | None, ...]:
    """A token for each of `rank` dimensions, none for frozen ones; more or fewer when they cannot be that many."""
    spread = next((i for i, text in enumerate(texts) if text in ("*", "...")), None)
    tokens = [None if text == "*" else _token(text) for text in texts]
    if spread is not None:
        count = rank - (len(texts) - 1)
        around = texts[spread] == "*"
        tokens[spread : spread + 1] = [None if around else _token(f"~{count - k}", True) for k in range(count)]
    return tuple(tokens)


def _token(text: str, spread: bool = False) -> _Token:
    names = text.strip("()").split()
    frozen = tuple(name[1:] for name in names if name.startswith("!"))
    return _Token(text, tuple(name.lstrip("!") for name in names), frozen, spread)


def _label_operand(
    relation: Relation, value: Value, shape: Shape, texts: tuple[str, ...], sizes: _Sizes, reasons: Mapping[str, str]
) -> None:
    tokens = _tokens(texts, len(shape))
    if len(tokens) != len(shape):
        for mismatched in tokens:
            if mismatched is not None:
                _freeze_names(relation, mismatched, "an operand of another rank than expected")
        return
    for dim, token in enumerate(tokens):
        if token is None:
            continue
        extent = shape[dim]
        if token.text == "_" or (token.spread and extent == 1):
            relation.axes[value, dim] = ()
        elif not isinstance(extent, int):
            _freeze_names(relation, token, "a size that is known only when the graph runs")
        elif (axes := _axes(token.names, extent, sizes)) is None:
            _freeze_names(relation, token, f"a dimension of {extent} that does not factor as expected")
        else:
            relation.axes[value, dim] = axes
            for label in token.frozen:
                relation.frozen[label] = reasons.get(label, "")


def _freeze_names(relation: Relation, token: _Token, reason: str) -> None:
    """What one operand cannot say about a label keeps the other operands from losing its indices."""
    if token.text != "_":
        for name in token.names:
            relation.frozen.setdefault(name, reason)


#: Sizes of labels that are known.
_Sizes: TypeAlias = tuple[tuple[str, int], ...]


@lru_cache(maxsize=4096)  # networks repeat their layers
def _axes(names: tuple[str, ...], extent: int, sizes: _Sizes) -> tuple[Axis, ...] | None:
    known = {name: size for name, size in sizes if name in names}
    open_names = [name for name in names if name not in known]
    rest = extent
    for size in known.values():
        if size == 0 or rest % size:
            return None
        rest //= size
    if len(open_names) > 1 or (not open_names and rest != 1):
        return None
    return tuple(Axis(name, known.get(name, rest)) for name in names)
