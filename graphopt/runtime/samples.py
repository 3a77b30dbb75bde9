"""Sample inputs, made from nothing but the types of a graph's inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.analysis.shapes import propagate_all
from graphopt.errors import DataError, PassError, ShapeError
from graphopt.ir import DType, Graph, TensorType, Value
from graphopt.ir import dims as D
from graphopt.runtime.executor import run

# Two differs from one, so that a batch that was folded away shows; more costs time.
DEFAULT_SIZE = 2
#: Sizes of open dimensions that are tried, one after the other, on a graph that does not run with the smallest.
_LARGER_SIZES = (8, 32, 128, 512, 2048)
#: Sizes of one open dimension that a graph may want exactly (lines of text 48 high, 80 bands of a spectrum).
_EXACT_SIZES = range(16, 129, 16)
#: So many dimensions are tried one by one at most; beside the one in turn, the others have `_BESIDE`.
_MAX_EXACT = 4
_BESIDE = 128
#: Larger inputs are not made up: a damaged file may ask for anything.
MAX_ELEMENTS = 1 << 28
#: Nor are larger ones tried out: the work inside the graph grows with them, or with their square.
_MAX_TRIED_ELEMENTS = 1 << 22


#: An open dimension: its name, or the input and the position that it stands at.
_Open = str | tuple[str, int]


@dataclass(frozen=True)
class _Sizes:
    """Sizes of open dimensions: of those that are given, of leading ones, of the others."""

    given: Mapping[_Open, int] = field(default_factory=dict)
    leading: int = DEFAULT_SIZE
    other: int = DEFAULT_SIZE
    leaders: frozenset[str] = frozenset()

    def shape_of(self, value: Value) -> tuple[int, ...]:
        return tuple(self._extent(value.name, position, dim) for position, dim in enumerate(value.shape or ()))

    def _extent(self, name: str, position: int, dim: D.Dim) -> int:
        default = self.leading if position == 0 else self.other
        names = D.free_names(dim)
        sizes = {n: self.given.get(n, self.leading if n in self.leaders else self.other) for n in names}
        bound = D.substitute(dim, sizes)
        return bound if isinstance(bound, int) else self.given.get((name, position), default)


@dataclass(frozen=True)
class Runnable:
    """Made-up inputs that a graph was seen to run on.

    Attributes:
        inputs: in the order of the graph's.
        results: what the graph computed from them.
        enlarged: shapes of the inputs with open dimensions, by name, where the smallest sizes were too small.
    """

    inputs: list[torch.Tensor]
    results: list[Any]
    enlarged: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{name} {list(shape)}" for name, shape in self.enlarged.items())


def runnable_inputs(graph: Graph, seed: int = 0, sizes: Mapping[str, int] | None = None) -> Runnable:
    """Made-up inputs, as of `example_inputs`, with open dimensions as large as the graph needs to run.

    A window that is not padded wants a signal longer than itself, and no type says so. So larger sizes are tried: of
    all open dimensions but the leading ones, which mostly count samples, then of all. A graph may even want one exact
    size, where it drops a dimension that has shrunk to one: each is varied for itself at last. What the operators'
    shape rules refuse is not run.

    Args:
        graph: the graph.
        seed: of the random numbers, also of those that the graph draws.
        sizes: sizes of named dimensions, which are kept.

    Raises:
        GraphoptError: what the graph has to say to the smallest sizes, where it runs with none.
    """
    inputs = example_inputs(graph, seed, sizes)
    try:
        return Runnable(inputs, _run(graph, inputs, seed))
    except (DataError, PassError) as error:
        refused = error
    for candidate in _larger(graph, sizes or {}):
        shapes = {value.name: candidate.shape_of(value) for value in graph.inputs if _is_open(value)}
        if sum(map(math.prod, shapes.values())) > _MAX_TRIED_ELEMENTS or not _fits(graph, candidate):
            continue
        try:
            larger = _make(graph, seed, candidate)
            return Runnable(larger, _run(graph, larger, seed), shapes)
        except (DataError, PassError):
            continue
    shown = ", ".join(f"{v.name} {list(t.shape)}" for v, t in zip(graph.inputs, inputs, strict=True))
    raise type(refused)(refused.what, where=refused.where, hint=f"the inputs were made up ({shown}): give data")


def _larger(graph: Graph, given: Mapping[str, int]) -> Iterator[_Sizes]:
    if not any(_is_open(value) for value in graph.inputs):
        return
    leaders = frozenset(name for value in graph.inputs for dim in (value.shape or ())[:1] for name in D.free_names(dim))
    known: dict[_Open, int] = dict(given.items())
    for size in _LARGER_SIZES:
        yield _Sizes(known, DEFAULT_SIZE, size, leaders)
        yield _Sizes(known, size, size, leaders)
    varied = [dim for dim in _followers(graph) if dim not in leaders and dim not in known]
    for dim in varied if len(varied) <= _MAX_EXACT else []:
        for size in _EXACT_SIZES:
            yield _Sizes({**known, dim: size}, DEFAULT_SIZE, _BESIDE, leaders)


def _followers(graph: Graph) -> Iterable[_Open]:
    """The open dimensions that do not stand first."""
    found: dict[_Open, None] = {}
    for value in filter(_is_open, graph.inputs):
        for position, dim in enumerate(value.shape or ()):
            names: Iterable[_Open] = [(value.name, position)] if dim is None else D.free_names(dim)
            found.update(dict.fromkeys(names if position else ()))
    return found


def _fits(graph: Graph, sizes: _Sizes) -> bool:
    """False when the shape rules tell that `graph` does not run with inputs of `sizes`."""
    copied = graph.clone()
    for value in filter(_is_open, copied.inputs):
        if isinstance(value.type, TensorType):
            value.type = value.type.with_shape(sizes.shape_of(value))
    try:
        propagate_all(copied)
    except ShapeError:
        return False
    return True


def _is_open(value: Value) -> bool:
    return value.data is None and any(not isinstance(dim, int) for dim in value.shape or ())


def _run(graph: Graph, inputs: list[torch.Tensor], seed: int) -> list[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return run(graph, inputs)


def example_inputs(graph: Graph, seed: int = 0, sizes: Mapping[str, int] | None = None) -> list[torch.Tensor]:
    """Random tensors that the graph accepts: normal floats, and zeros and ones for integers (valid as any index).

    Args:
        graph: the graph.
        seed: of the random numbers.
        sizes: sizes of named dimensions; the others, and unknown ones, are 2.

    Raises:
        DataError: an input is no tensor of numbers, or one of more than `MAX_ELEMENTS`.
    """
    return _make(graph, seed, _Sizes(dict((sizes or {}).items())))


def _make(graph: Graph, seed: int, sizes: _Sizes) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [_example(value, generator, sizes) for value in graph.inputs]


def _example(value: Value, generator: torch.Generator, sizes: _Sizes) -> torch.Tensor:
    if value.data is not None:
        return value.data
    kind = value.type
    if not isinstance(kind, TensorType) or kind.dtype is DType.STRING:
        raise DataError(
            f"input '{value.name}' is {kind}, for which nothing can be made up", where=value.name, hint="give data"
        )
    dtype = DType.FLOAT32 if kind.dtype is DType.UNDEFINED else kind.dtype
    shape = sizes.shape_of(value)
    if math.prod(shape) > MAX_ELEMENTS:
        raise DataError(
            f"input '{value.name}' has {math.prod(shape):.1e} elements, too many to make up", where=value.name,
            hint="give data",
        )  # fmt: skip
    if dtype is DType.BOOL:
        return torch.ones(shape, dtype=torch.bool)
    if dtype.is_integer:
        return torch.randint(0, 2, shape, generator=generator).to(dtype.torch)
    return torch.randn(shape, generator=generator).to(dtype.torch)
