"""Importance: a score per component, from the slices of the weights that it would take away.

A criterion (see `graphopt.passes.prune.criteria`) scores each slice; a reduction makes one score of a component's
slices; a normalisation makes the scores of different groups comparable. Lower means less important.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.analysis.coupling.atoms import Factor
from graphopt.errors import DataError
from graphopt.ir import Node, Value
from graphopt.ops import execute, real_values
from graphopt.passes.prune.criteria import Criterion, Evidence, criterion, find_criterion

Reduction: TypeAlias = Literal["sum", "mean", "max", "first"]
Normalisation: TypeAlias = Literal["none", "mean", "max", "sum", "standardise"]


class _Tally:
    """Scores of slices, gathered line by line and looked through at once.

    They lie in one piece of memory from the start: small tensors that stay, between large ones that come and go, would
    keep the memory of these from being used again.
    """

    def __init__(self, component: np.ndarray, places: _Places) -> None:
        sizes = (len(factors) * _size(value, dim) for value, dims in places.items() for dim, factors in dims)
        self._component = component
        self._scores = torch.empty(sum(sizes), dtype=torch.float64)
        self._length = 0
        self._lines: list[tuple[Value, range, Sequence[Factor]]] = []

    def add(self, line: torch.Tensor, owner: Value, factors: Sequence[Factor]) -> None:
        """Scores [indices] of a dimension; those of an atom are added up."""
        span = range(self._length, self._length + len(line))
        self._scores.narrow(0, span.start, len(span)).copy_(line)
        self._length = span.stop
        self._lines.append((owner, span, factors))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Components and their scores, one entry per slice. Raises DataError for scores that are no numbers."""
        flat = self._scores[: self._length]
        scores = flat.numpy()
        if not np.isfinite(scores).all():
            for owner, span, _ in self._lines:
                _finite(flat[span.start : span.stop], owner)
        components, found = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for _, span, factors in self._lines:
            own = scores[span.start : span.stop]
            for factor in factors:
                components.append(self._component[factor.first : factor.first + factor.size])
                whole = factor.size == len(own)
                found.append(own if whole else own.reshape(-1, factor.size, factor.stride).sum((0, 2)))
        # Estimates of curvature have either sign, and their noise is to cancel before the sign is dropped.
        return np.concatenate(components), np.abs(np.concatenate(found))


def _size(value: Value, dim: int) -> int:
    size = (value.shape or ())[dim]
    return size if isinstance(size, int) else 0


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
    count = coupling.atoms.components
    places = _places(coupling, rule, groups)
    proper = {value: dims for value, dims in places.items() if rule.flows is not None or (value.rank or 0) >= 2}
    # Biases and normalisation parameters only decide where a component has nothing else, so that a torch model and its
    # ONNX file, which differ in these, rank alike.
    small = {value: dims for value, dims in places.items() if value not in proper}
    _check_finite(small)
    scores, known = _reduce(*_entries(coupling, rule, evidence, proper), count, reduction)
    if small and any(not known[group.components].all() for group in groups):
        spare, spare_known = _reduce(*_entries(coupling, rule, evidence, small), count, reduction)
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


#: For each value to be scored, its dimensions with the factors that are wanted.
_Places: TypeAlias = Mapping[Value, list[tuple[int, list[Factor]]]]


def _places(coupling: ChannelCoupling, rule: Criterion, groups: Sequence[Group]) -> _Places:
    touched: dict[int, dict[Factor, None]] = {}
    for factor in (factor for group in groups for factor in group.factors):
        touched.setdefault(factor.extent, {})[factor] = None
    places: dict[Value, list[tuple[int, list[Factor]]]] = {}
    for extent in sorted(touched):
        factors = sorted(touched[extent], key=lambda factor: factor.first)
        for value, dim in coupling.extents.members[extent]:
            if value.is_constant != (rule.flows is not None):
                places.setdefault(value, []).append((dim, factors))
    return places


def _check_finite(places: _Places) -> None:
    """Raises DataError when a bias or the like holds what is no number, whether it takes part in the ranking or not."""
    floats = [(value, data) for value in places if (data := value.data) is not None and data.is_floating_point()]
    with torch.no_grad():
        tensors = [data.flatten().float() for _, data in floats]
        if tensors and not bool(torch.isfinite(torch.cat(tensors)).all()):
            for (value, _), tensor in zip(floats, tensors, strict=True):
                _finite(tensor, value)


def _entries(
    coupling: ChannelCoupling, rule: Criterion, evidence: Evidence, places: _Places
) -> tuple[np.ndarray, np.ndarray]:
    """Components and scores of their slices."""
    tally = _Tally(coupling.atoms.component, places)
    for value, dims in places.items():
        if rule.flows is not None:
            for dim, factors in dims:
                line = rule.flows(value, dim, evidence)
                if line is not None:
                    tally.add(line, value, factors)
            continue
        weight = _dequantized(value)
        if weight is None:
            continue
        if rule.slices is not None:
            for dim, factors in dims:
                _add_slices(tally, rule, weight, evidence, dim, factors)
        elif rule.elements is not None:
            elements = rule.elements(weight, evidence)
            if elements is None:
                continue
            for (_, factors), line in zip(dims, _lines(elements, [dim for dim, _ in dims]), strict=True):
                tally.add(line, value, factors)  # what is not finite survives the sum
            del elements  # large weights are scored one at a time
    return tally.result()


def _lines(scores: torch.Tensor, dims: Sequence[int]) -> Iterator[torch.Tensor]:
    """For each of `dims` the sum over all other dimensions; what lies behind all of them is summed once."""
    last = max(dims)
    if last + 1 < scores.dim():
        scores = scores.flatten(last + 1).sum(-1)
    for dim in dims:  # the dimensions before it are one, as are those after it: torch sums these fastest
        line = scores.flatten(0, dim - 1).sum(0) if dim else scores
        yield line.flatten(1).sum(1) if line.dim() > 1 else line


def _add_slices(
    tally: _Tally, rule: Criterion, weight: Value, evidence: Evidence, dim: int, factors: Sequence[Factor]
) -> None:
    assert rule.slices is not None and weight.data is not None
    data = _finite(weight.data.detach().float(), weight).movedim(dim, 0)
    for factor in factors:
        grid = data.reshape(-1, factor.size, factor.stride, data[0].numel()).transpose(0, 1)
        scores = rule.slices(grid.reshape(factor.size, -1), weight, evidence)
        if scores is not None:
            tally.add(scores, weight, [factor])


def _reduce(
    components: np.ndarray, scores: np.ndarray, count: int, reduction: Reduction
) -> tuple[np.ndarray, np.ndarray]:
    """One score per component, and which components have one."""
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
    for user, position in value.uses:
        tensor = _stands_for(user, position) if isinstance(user, Node) else None
        if tensor is not None:
            return Value.constant(tensor, value.name)
    return None


def _stands_for(node: Node, position: int) -> torch.Tensor | None:
    if node.op != "DequantizeLinear" or position != 0:
        return real_values(node, position)
    if any(each is not None and each.data is None for each in node.inputs):
        return None
    tensor: torch.Tensor = execute(node, [None if each is None else each.data for each in node.inputs])[0]
    return tensor


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
