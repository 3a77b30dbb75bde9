"""Sample inputs, made from nothing but the types of a graph's inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.errors import DataError, PassError
from graphopt.ir import DType, Graph, TensorType, Value
from graphopt.ir import dims as D
from graphopt.runtime.executor import run

# Two differs from one, so that a batch that was folded away shows; more costs time.
DEFAULT_SIZE = 2
#: Sizes of open dimensions that are tried, one after the other, on a graph that does not run with the smallest.
_LARGER_SIZES = (8, 32, 128, 512, 2048)
#: Larger inputs are not made up: a damaged file may ask for anything.
MAX_ELEMENTS = 1 << 28
#: Nor are larger ones tried out: the work inside the graph grows with them, or with their square.
_MAX_TRIED_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class _Sizes:
    """Sizes of open dimensions: of those that have a name and are given, of leading ones, of the others."""

    given: Mapping[str, int] = field(default_factory=dict)
    leading: int = DEFAULT_SIZE
    other: int = DEFAULT_SIZE
    leaders: frozenset[str] = frozenset()

    def shape_of(self, value: Value) -> tuple[int, ...]:
        return tuple(self._extent(position, dim) for position, dim in enumerate(value.shape or ()))

    def _extent(self, position: int, dim: D.Dim) -> int:
        default = self.leading if position == 0 else self.other
        names = D.free_names(dim)
        sizes = {n: self.given.get(n, self.leading if n in self.leaders else self.other) for n in names}
        bound = D.substitute(dim, sizes)
        return bound if isinstance(bound, int) else default


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
    all open dimensions but the leading ones, which mostly count samples, then of all.

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
        if sum(map(math.prod, shapes.values())) > _MAX_TRIED_ELEMENTS:
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
    for size in _LARGER_SIZES:
        yield _Sizes(given, DEFAULT_SIZE, size, leaders)
        yield _Sizes(given, size, size, leaders)


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
    return _make(graph, seed, _Sizes(sizes or {}))


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
