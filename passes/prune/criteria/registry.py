"""What a criterion is, and where they are found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from graphopt.errors import OptionError, nearest
from graphopt.ir import Value

if TYPE_CHECKING:
    from graphopt.passes.prune.criteria.evidence import Evidence

#: Scores of a weight's elements (same shape, floating point); ``None`` where the criterion says nothing about it.
Elements: TypeAlias = Callable[[Value, "Evidence"], torch.Tensor | None]
#: Scores [n] of n slices [n, elements] of a weight; ``None`` where the criterion says nothing about it.
Slices: TypeAlias = Callable[[torch.Tensor, Value, "Evidence"], torch.Tensor | None]
#: Scores [n] of the n indices of a dimension of a value that flows through the graph; ``None`` where it says nothing.
Flows: TypeAlias = Callable[[Value, int, "Evidence"], torch.Tensor | None]


@dataclass(frozen=True)
class Criterion:
    """Importance: higher means more important. One of the three functions is enough.

    Attributes:
        name: as written in options.
        elements: scores single weights; a slice is worth the magnitude of their sum.
        slices: scores slices of a weight as a whole, where a sum of elements does not say it.
        flows: scores channels by what flows through them.
        doc: first line of the function's docstring.
    """

    name: str
    elements: Elements | None = None
    slices: Slices | None = None
    flows: Flows | None = None
    doc: str = ""


_CRITERIA: dict[str, Criterion] = {}


def _known(name: str, function: Callable[..., torch.Tensor | None]) -> Criterion:
    """The criterion so far: it may score elements and slices by a function each; the first one explains it."""
    return _CRITERIA.get(name) or Criterion(name, doc=(function.__doc__ or "").strip().partition("\n")[0])


def criterion(name: str) -> Callable[[Elements], Elements]:
    """Registers a function (weight, evidence) -> scores of the weight's elements."""

    def add(function: Elements) -> Elements:
        _CRITERIA[name] = replace(_known(name, function), elements=function)
        return function

    return add


def slice_criterion(name: str) -> Callable[[Slices], Slices]:
    """Registers a function (slices [n, elements], weight, evidence) -> scores [n]."""

    def add(function: Slices) -> Slices:
        _CRITERIA[name] = replace(_known(name, function), slices=function)
        return function

    return add


def flow_criterion(name: str) -> Callable[[Flows], Flows]:
    """Registers a function (value, dimension, evidence) -> scores of the dimension's indices."""

    def add(function: Flows) -> Flows:
        _CRITERIA[name] = replace(_known(name, function), flows=function)
        return function

    return add


def find_criterion(name: str) -> Criterion:
    """The criterion called `name`. Raises OptionError, with the nearest name, when there is none."""
    if name not in _CRITERIA:
        known = sorted(_CRITERIA)
        hint = nearest(name, known) or f"one of: {', '.join(known)}"
        raise OptionError(f"there is no criterion '{name}'", where="criterion", hint=hint)
    return _CRITERIA[name]


def all_criteria() -> Mapping[str, Criterion]:
    """Every registered criterion by name."""
    return dict(sorted(_CRITERIA.items()))
