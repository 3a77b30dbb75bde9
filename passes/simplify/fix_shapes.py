"""Shapes that are always the same: open dimensions become numbers, and what depends on them can be folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sympy

from graphopt.analysis import bind, propagate
from graphopt.errors import OptionError, ShapeError, nearest
from graphopt.ir import Dim, Graph, TensorType, Value
from graphopt.ir import dims as D
from graphopt.pipeline import Changes, Context, Pass, register

_OPEN = "?"


@register("fix-shapes")
@dataclass(frozen=True)
class FixShapes(Pass):
    """Give inputs the shapes, and open dimensions the sizes, that they always have from now on.

    Only types change; `simplify` folds what follows from them.

    Attributes:
        shapes: by the name of an input its shape, 1x3x224x224 (with ? for a dimension that stays open); or by the name
            of an open dimension its size.
    """

    shapes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in self.shapes.items():
            parse_shape(name, text)

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        before = [value.type for value in graph.inputs]
        sizes = fix_shapes(graph, {name: parse_shape(name, text) for name, text in self.shapes.items()})
        notes = tuple(f"{name} is {size}" for name, size in sizes.items())
        return Changes(before != [value.type for value in graph.inputs], {"dimensions": len(sizes)}, notes)


def parse_shape(name: str, text: str) -> list[int | None]:
    """Reads ``1x3x224x224``; ``?`` stands for ``None``. Raises ValueError for anything else."""
    parts = text.lower().split("x")
    if not all(part == _OPEN or (part.isascii() and part.isdigit()) for part in parts):
        raise ValueError(f"'{text}' is no shape for '{name}': write sizes with x between them, 1x3x224x224")
    return [None if part == _OPEN else int(part) for part in parts]


def fix_shapes(graph: Graph, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, int]:
    """Binds open dimensions and brings all types up to date; returns the named ones with their sizes.

    Args:
        graph: types must be up to date.
        shapes: by the name of an input its shape, with ``None`` for what stays open; or by the name of an open
            dimension its size, alone.

    Raises:
        OptionError: no input or dimension of that name; or a size that contradicts the model or another input.
    """
    inputs = {value.name: value for value in graph.inputs}
    before = [value.type for value in graph.inputs]
    found: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        if name in inputs:
            _take_shape(inputs[name], shape, found)
        elif name in _names(graph) and len(shape) == 1 and shape[0] is not None:
            _take(found, name, shape[0], f"'{name}'")
        else:
            raise _unknown(graph, name)
    sizes = {name: size for name, (size, _) in found.items()}
    if sizes or before != [value.type for value in graph.inputs]:
        try:
            bind(graph, sizes)
        except ShapeError as error:  # the sizes were given from outside: the graph is not to blame
            raise OptionError(error.what, where=error.where, hint="give other sizes") from error
    return sizes


def _names(graph: Graph) -> dict[str, None]:
    dims = (dim for value in graph.inputs for dim in value.tensor_type.shape or ())
    return dict.fromkeys(name for dim in dims for name in sorted(D.free_names(dim)))


def _unknown(graph: Graph, name: str) -> OptionError:
    known = [*(value.name for value in graph.inputs), *_names(graph)]
    return OptionError(
        f"no input and no open dimension is called '{name}'",
        where="fix-shapes",
        hint=nearest(name, known) or f"there are: {', '.join(known)}",
    )


def _take_shape(value: Value, shape: Sequence[int | None], found: dict[str, tuple[int, str]]) -> None:
    kind = value.type
    if not isinstance(kind, TensorType):
        raise OptionError(f"input '{value.name}' is {kind}, which has no shape", where="fix-shapes")
    own: Sequence[Dim] = kind.shape if kind.shape is not None else [None] * len(shape)
    if len(own) != len(shape):
        raise OptionError(
            f"input '{value.name}' has {len(own)} dimensions, {len(shape)} are given", where="fix-shapes",
            hint=f"it is {kind}",
        )  # fmt: skip
    for axis, (dim, size) in enumerate(zip(own, shape, strict=True)):
        if size is not None and dim is not None:
            _solve(dim, size, f"dimension {axis} of input '{value.name}'", found)
    value.type = kind.with_shape(size if dim is None else dim for dim, size in zip(own, shape, strict=True))


def _solve(dim: Dim, size: int, where: str, found: dict[str, tuple[int, str]]) -> None:
    """Notes what a dimension of the given size makes of the names in it."""
    bound = D.substitute(dim, {name: known for name, (known, _) in found.items()})
    names = sorted(D.free_names(bound))
    if isinstance(bound, int):
        if bound != size:
            why = "" if isinstance(dim, int) else f", for {', '.join(found[n][1] for n in sorted(D.free_names(dim)))}"
            raise OptionError(f"{where} is {bound}{why}, and cannot be {size}", where="fix-shapes")
        return
    if len(names) > 1 or bound is None:
        raise OptionError(
            f"{where} is {D.format_dim(dim)}, which {size} does not settle", where="fix-shapes",
            hint=f"give {names[0]} a size of its own: {names[0]}=...",
        )  # fmt: skip
    solutions = sympy.solve(bound - size, D.symbol(names[0]))
    whole = [int(each) for each in solutions if each.is_integer and each >= 0]
    if len(whole) != 1:
        raise OptionError(f"{where} is {D.format_dim(dim)}, which is never {size}", where="fix-shapes")
    _take(found, names[0], whole[0], where)


def _take(found: dict[str, tuple[int, str]], name: str, size: int, where: str) -> None:
    known, first = found.setdefault(name, (size, where))
    if known != size:
        raise OptionError(f"{where} makes {name} {size}, and {first} makes it {known}", where="fix-shapes")
