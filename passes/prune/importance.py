"""Importance: a score per component, summed over the slices of the weights that it would take away.

A criterion is a function that turns a weight into non-negative scores of its elements; scores add up along everything
but the index in question. Lower means less important. Criteria are plug-ins: ``@criterion("name")``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.analysis.coupling.atoms import Factor
from graphopt.errors import DataError, OptionError, nearest
from graphopt.ir import Value
from graphopt.ops import execute
from graphopt.pipeline import Context

#: Scores of a weight's elements (same shape, floating point, non-negative).
Criterion: TypeAlias = Callable[[Value, Context], torch.Tensor]

_CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Registers a criterion under `name`."""

    def add(function: Criterion) -> Criterion:
        _CRITERIA[name] = function
        return function

    return add


def find_criterion(name: str) -> Criterion:
    """The criterion called `name`. Raises OptionError, with the nearest name, when there is none."""
    if name not in _CRITERIA:
        known = sorted(_CRITERIA)
        hint = nearest(name, known) or f"one of: {', '.join(known)}"
        raise OptionError(f"there is no criterion '{name}'", where="criterion", hint=hint)
    return _CRITERIA[name]


@criterion("l1")
def l1(weight: Value, context: Context) -> torch.Tensor:
    """Magnitude (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)."""
    return _data(weight).abs()


@criterion("l2")
def l2(weight: Value, context: Context) -> torch.Tensor:
    """Squared magnitude; sums of it order components as their L2 norms do."""
    return _data(weight).square()


@criterion("random")
def random(weight: Value, context: Context) -> torch.Tensor:
    """Uniform noise from the run's seed and the weight's name: the baseline that a criterion has to beat."""
    data = _data(weight)
    seed = context.seed + sum((i + 1) * byte for i, byte in enumerate(weight.name.encode()))
    return torch.rand(data.shape, generator=torch.Generator().manual_seed(seed))


def _data(weight: Value) -> torch.Tensor:
    if weight.data is None:
        raise DataError(f"weight '{weight.name}' has no data", where=weight.name)
    return weight.data.detach().float()


def score_components(
    coupling: ChannelCoupling, rule: Criterion, context: Context, groups: Sequence[Group]
) -> np.ndarray:
    """Scores the components of `groups`; the others' scores mean nothing.

    Weights proper (two dimensions and more) count; biases and normalisation parameters only decide where a component
    has nothing else, so that a torch model and its ONNX file, which differ in these, are ranked alike. Quantized
    weights count as what they stand for.

    Raises:
        DataError: a weight of one of the groups holds NaN or infinity.
    """
    atoms = coupling.atoms
    wanted = np.zeros(atoms.components, dtype=bool)
    for group in groups:
        wanted[group.components] = True
    scores, fallback = np.zeros(atoms.count), np.zeros(atoms.count)
    proper = np.zeros(atoms.count, dtype=bool)
    dims: dict[Value, list[tuple[int, list[Factor]]]] = {}
    for value, dim, factors in coupling.constants():
        if any(wanted[atoms.component[factor.atoms]].any() for factor in factors):
            dims.setdefault(value, []).append((dim, factors))
    for value, places in dims.items():
        stands_for = _dequantized(value)
        if stands_for is None:
            continue
        elements = _finite(rule(stands_for, context), value)
        is_proper = (value.rank or 0) >= 2
        for dim, factors in places:
            _add_scores(scores if is_proper else fallback, elements, dim, factors)
            for factor in factors if is_proper else ():
                proper[factor.first : factor.first + factor.size] = True
    has_proper = np.bincount(atoms.component, proper, atoms.components) > 0
    totals = (np.bincount(atoms.component, each, atoms.components) for each in (scores, fallback))
    return np.where(has_proper, *totals)


def _dequantized(value: Value) -> Value | None:
    """The floating-point weight that a constant is, or stands for; ``None`` for indices, masks and the like."""
    if value.data is None:
        return None
    if value.dtype.is_float and value.dtype.bits > 8:
        return value
    node = next((user for user in value.users if user.op == "DequantizeLinear" and user.input(0) is value), None)
    read = [] if node is None else [each for each in node.inputs if each is not None]
    if node is None or any(each.data is None for each in read):
        return None
    (tensor,) = execute(node, [None if each is None else each.data for each in node.inputs])
    return Value.constant(tensor, value.name)


def _finite(scores: torch.Tensor, value: Value) -> torch.Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise DataError(
            f"weight '{value.name}' holds NaN or infinity, so its channels cannot be ranked",
            where=value.name,
            hint="repair the checkpoint, or put the layer on the ignore list",
        )
    return scores


def _add_scores(total: np.ndarray, scores: torch.Tensor, dim: int, factors: Sequence[Factor]) -> None:
    others = [d for d in range(scores.dim()) if d != dim]
    line = (scores.sum(others) if others else scores).double().numpy()
    for factor in factors:
        grid = line.reshape(-1, factor.size, factor.stride)
        total[factor.first : factor.first + factor.size] += grid.sum((0, 2))


def normalised(scores: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """Scores divided by the mean of their group, so that layers of different scale can be ranked together."""
    result = scores.copy()
    for group in groups:
        mean = scores[group.components].mean()
        result[group.components] = scores[group.components] / mean if mean > 0 else 0.0
    return result
