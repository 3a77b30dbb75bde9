"""Importance: a score per component, from the slices of the weights that it would take away.

A criterion (see `graphopt.passes.prune.criteria`) scores each slice; a reduction makes one score of a component's
slices; a normalisation makes the scores of different groups comparable. Lower means less important.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.analysis.coupling.atoms import Factor
from graphopt.errors import DataError
from graphopt.ir import Value
from graphopt.ops import execute
from graphopt.passes.prune.criteria import Criterion, Evidence, criterion, find_criterion

Reduction: TypeAlias = Literal["sum", "mean", "max", "first"]
Normalisation: TypeAlias = Literal["none", "mean", "max", "sum", "standardise"]


@dataclass(frozen=True)
class _Entry:
    """Scores of slices: one per atom of a factor.

    Weights proper (two dimensions and more, and what flows) count; biases and normalisation parameters only decide
    where a component has nothing else, so that a torch model and its ONNX file, which differ in these, rank alike.
    """

    components: np.ndarray
    scores: np.ndarray
    proper: bool


def score_components(
    coupling: ChannelCoupling,
    rule: Criterion,
    evidence: Evidence,
    groups: Sequence[Group],
    reduction: Reduction = "sum",
) -> tuple[np.ndarray, list[str]]:
    """Scores the components of `groups`; the others' scores mean nothing.

    Quantized weights count as what they stand for.

    Args:
        coupling: of the graph.
        rule: the criterion.
        evidence: what the criterion may ask.
        groups: the groups to be scored.
        reduction: what becomes of the slices of a component: sum, mean, max, or the first one in graph order.

    Returns:
        A score per component, and notes on groups for which the criterion had nothing to say.

    Raises:
        DataError: a weight of one of the groups holds NaN or infinity, the criterion lacks data or labels, or it finds
            nothing to score in any group.
    """
    atoms = coupling.atoms
    wanted = np.zeros(atoms.components, dtype=bool)
    for group in groups:
        wanted[group.components] = True
    entries = list(_entries(coupling, rule, evidence, wanted))
    scores, known = _reduce([e for e in entries if e.proper], atoms.components, reduction)
    spare, spare_known = _reduce([e for e in entries if not e.proper], atoms.components, reduction)
    scores, known = np.where(known, scores, spare), known | spare_known
    silent = [group for group in groups if not known[group.components].all()]
    if not silent or rule.name == "l2":
        return scores, []
    if len(silent) == len(groups):
        raise DataError(
            f"criterion {rule.name} finds nothing to score", where="criterion", hint=_why_nothing(rule.name)
        )
    by_size, _ = score_components(coupling, find_criterion("l2"), evidence, silent, reduction)
    for group in silent:
        scores[group.components] = by_size[group.components]
    return scores, [f"criterion {rule.name} says nothing about {len(silent)} groups, which are ranked by l2"]


def _why_nothing(name: str) -> str:
    if name == "bn-scale":
        return "run it before fuse, on a graph with normalisations; or take l1"
    return "take l1, which scores whatever has weights"


def _entries(coupling: ChannelCoupling, rule: Criterion, evidence: Evidence, wanted: np.ndarray) -> Iterator[_Entry]:
    component = coupling.atoms.component
    places: dict[Value, list[tuple[int, list[Factor]]]] = {}
    for extent, members in enumerate(coupling.extents.members):
        factors = [f for f in coupling.atoms.factors[extent] if wanted[component[f.atoms]].any()]
        for value, dim in members if factors else ():
            if value.is_constant != (rule.flows is not None):
                places.setdefault(value, []).append((dim, factors))
    for value, dims in places.items():
        if rule.flows is not None:
            for dim, factors in dims:
                line = rule.flows(value, dim, evidence)
                if line is not None:
                    yield from _of_elements(component, line, value, 0, factors, True)
            continue
        weight = _dequantized(value)
        if weight is None:
            continue
        proper = (value.rank or 0) >= 2
        elements = None
        if rule.slices is None and rule.elements is not None:
            elements = rule.elements(weight, evidence)
            if elements is None:
                continue
        for dim, factors in dims:
            if elements is not None:
                yield from _of_elements(component, elements, value, dim, factors, proper)
            else:
                yield from _of_slices(component, rule, weight, evidence, dim, factors, proper)


def _of_elements(
    component: np.ndarray, scores: torch.Tensor, value: Value, dim: int, factors: Sequence[Factor], proper: bool
) -> Iterator[_Entry]:
    others = [d for d in range(scores.dim()) if d != dim]
    # What is not finite survives the sum, and the sums are quicker to look through.
    line = _finite(scores.sum(others) if others else scores, value).double().numpy()
    for factor in factors:
        grid = line.reshape(-1, factor.size, factor.stride)
        # Estimates of curvature have either sign, and their noise is to cancel before the sign is dropped.
        yield _Entry(component[factor.first : factor.first + factor.size], np.abs(grid.sum((0, 2))), proper)


def _of_slices(
    component: np.ndarray, rule: Criterion, weight: Value, evidence: Evidence, dim: int, factors: Sequence[Factor],
    proper: bool,
) -> Iterator[_Entry]:  # fmt: skip
    assert rule.slices is not None and weight.data is not None
    data = _finite(weight.data.detach().float(), weight).movedim(dim, 0)
    for factor in factors:
        grid = data.reshape(-1, factor.size, factor.stride, data[0].numel()).transpose(0, 1)
        scores = rule.slices(grid.reshape(factor.size, -1), weight, evidence)
        if scores is not None:
            line = _finite(scores, weight).double().numpy()
            yield _Entry(component[factor.first : factor.first + factor.size], line, proper)


def _reduce(entries: Sequence[_Entry], count: int, reduction: Reduction) -> tuple[np.ndarray, np.ndarray]:
    """One score per component, and which components have one."""
    if not entries:
        return np.zeros(count), np.zeros(count, dtype=bool)
    components = np.concatenate([entry.components for entry in entries])
    scores = np.concatenate([entry.scores for entry in entries])
    hits = np.bincount(components, minlength=count)
    if reduction == "max":
        result = np.full(count, -np.inf)
        np.maximum.at(result, components, scores)
        result[hits == 0] = 0.0
    elif reduction == "first":
        found, first = np.unique(components, return_index=True)
        result = np.zeros(count)
        result[found] = scores[first]
    else:
        result = np.bincount(components, scores, count)
        if reduction == "mean":
            result = result / np.maximum(hits, 1)
    return result, hits > 0


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


def normalised(scores: np.ndarray, groups: Sequence[Group], how: Normalisation = "mean") -> np.ndarray:
    """Scores on one scale, so that groups of different size and magnitude can be ranked together.

    Args:
        scores: per component.
        groups: the groups, each of which is normalised by its own scores.
        how: divide by the mean, the maximum or the sum; standardise to mean 0 and deviation 1; or leave as they are.
    """
    result = scores.astype(np.float64, copy=True)
    for group in groups:
        own = scores[group.components]
        if how == "standardise":
            deviation = own.std()
            result[group.components] = (own - own.mean()) / deviation if deviation > 0 else 0.0
        elif how != "none":
            unit = float({"mean": own.mean, "max": own.max, "sum": own.sum}[how]())
            result[group.components] = own / unit if unit > 0 else 0.0
    return result


__all__ = ["Normalisation", "Reduction", "criterion", "find_criterion", "normalised", "score_components"]
