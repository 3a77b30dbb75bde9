"""The context of a run: data, analyses, randomness, and where to report."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, TypeVar

import torch

from graphopt.analysis.cost import UNIT, Cost
from graphopt.analysis.shapes import propagate
from graphopt.errors import DataError, GraphoptError, OptionError
from graphopt.ir import Graph
from graphopt.ir.expect import kind_of
from graphopt.pipeline.data import Data

A = TypeVar("A")
T = TypeVar("T")

#: Shows that work goes on: wraps an iterable, given a description and the number of items when it is known.
Progress = Callable[[Iterable[Any], str, int | None], Iterator[Any]]


def no_progress(items: Iterable[T], description: str = "", total: int | None = None) -> Iterator[T]:
    """Progress that shows nothing."""
    return iter(items)


def _measuring(evaluate: Callable[[Graph], float]) -> Callable[[Graph], float]:
    """The user's measure, whose mistakes are told as such."""

    def measure(graph: Graph) -> float:
        try:
            found = evaluate(graph)
        except GraphoptError:
            raise
        except Exception as error:  # the user's own function
            raise OptionError(f"evaluate raised {type(error).__name__}: {error}", where="evaluate") from error
        try:
            number = float(found)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if math.isnan(number):
            raise OptionError(
                f"evaluate returned {found!r}", where="evaluate", hint="return a number, higher is better"
            )
        return number

    return measure


class Context:
    """What a pass may ask for.

    Attributes:
        seed: seeds every random choice of a run.
        evaluate: the user's measure of a graph (higher is better), when given.
        options: further values for passes (a teacher module, a loss), by name.
    """

    def __init__(
        self,
        graph: Graph,
        data: Any = None,
        *,
        seed: int = 0,
        evaluate: Callable[[Graph], float] | None = None,
        progress: Progress = no_progress,
        **options: Any,
    ) -> None:
        if not isinstance(seed, int) or not -(1 << 63) <= seed < 1 << 64:
            raise OptionError(f"seed is {seed!r}", where="seed", hint="give a whole number of at most 64 bits")
        if evaluate is not None and not callable(evaluate):
            raise OptionError(
                f"evaluate is {kind_of(evaluate)}", where="evaluate",
                hint="give a function that takes a graph and returns a number, higher is better",
            )  # fmt: skip
        self.graph = graph
        self.seed = seed
        self.evaluate = None if evaluate is None else _measuring(evaluate)
        self.options = options
        self._progress = progress
        self._data = None if data is None else data if isinstance(data, Data) else Data(data, graph)
        self._analyses: weakref.WeakKeyDictionary[Graph, dict[Callable[[Graph], Any], tuple[int, Any]]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def has_data(self) -> bool:
        return self._data is not None

    @property
    def data(self) -> Data:
        """The samples. Raises DataError when the run was given none."""
        if self._data is None:
            raise DataError("this needs data and the run was given none", hint="pass data=..., or --data FILE.npz")
        return self._data

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Sizes that named dimensions have in use, by which costs are weighed: as in the data, if there is any.

        Not of the leading dimension: what is not listed counts as 1.
        """
        return UNIT if self._data is None else self._data.sizes()

    def cost(self, graph: Graph | None = None) -> Cost:
        """What the graph costs at these sizes, kept until it changes; of the run's own graph by default."""
        return self.get(self._cost, graph)

    @cached_property
    def _cost(self) -> Callable[[Graph], Cost]:
        return partial(Cost, sizes=self.sizes)

    def get(self, analysis: Callable[[Graph], A], graph: Graph | None = None) -> A:
        """An analysis of the graph, computed when first asked for and kept until the graph changes.

        Args:
            analysis: a class whose constructor takes a graph.
            graph: the graph; the run's own by default.
        """
        target = self.graph if graph is None else graph
        propagate(target)
        cache = self._analyses.setdefault(target, {})
        entry = cache.get(analysis)
        if entry is None or entry[0] != target.version:
            entry = (target.version, analysis(target))
            cache[analysis] = (target.version, entry[1])
        return entry[1]

    def progress(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """The same items, shown as progress."""
        return self._progress(items, description, total)

    def generator(self) -> torch.Generator:
        """A random generator that starts from the run's seed."""
        return torch.Generator().manual_seed(self.seed)
