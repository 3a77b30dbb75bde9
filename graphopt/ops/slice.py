"""Slice, Trilu and ReverseSequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, Shape, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import contents, input_type, integers, normalise_axis, same_as, static_integers
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze, tie, tie_dims
from graphopt.ops.relation import Axis, Relation, Shrinkage
from graphopt.ops.vectors import (
    IntVector,
    at_least,
    ints,
    maximum,
    minimum,
    rewritable,
    rewrite,
    scalar,
    vector_length,
)

# Bounds at or beyond this mean "to the end".
_FAR = 2**31 - 1


def slice_(
    x: torch.Tensor,
    starts: IntVector,
    ends: IntVector,
    axes: IntVector | None = None,
    steps: IntVector | None = None,
) -> torch.Tensor:
    """ONNX Slice; bounds are clamped and negative ones count from the end, steps may be negative."""
    begins, stops = ints(starts), ints(ends)
    where = list(range(len(begins))) if axes is None else ints(axes)
    strides = [1] * len(begins) if steps is None else ints(steps)
    for start, stop, axis, step in zip(begins, stops, where, strides, strict=True):
        if step > 0:
            before = (slice(None),) * (axis if axis >= 0 else axis + x.dim())
            x = x[(*before, slice(start, stop, step))]
        else:
            index = range(*slice(start, stop, step).indices(x.shape[axis]))
            x = x.index_select(axis, torch.tensor(list(index), dtype=torch.int64, device=x.device))
    return x


@dataclass(frozen=True)
class _Cut:
    """The slice along one axis; `place` is its position in the steering inputs."""

    place: int
    start: Dim
    stop: Dim
    step: Dim


def _cuts(node: Node, rank: int) -> dict[int, _Cut] | None:
    """The slices by axis; ``None`` when even the axes are not known."""
    count = vector_length(node.input(1)) or vector_length(node.input(2))
    starts, ends = integers(node.input(1)), integers(node.input(2))
    count = len(starts) if starts is not None else len(ends) if ends is not None else count
    if count is None:
        return None
    axes = list(range(count)) if node.input(3) is None else static_integers(node.input(3))
    steps: Sequence[Dim] = [1] * count if node.input(4) is None else integers(node.input(4)) or [None] * count
    if axes is None:
        return None
    starts, ends = starts or [None] * count, ends or [None] * count
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ShapeError("starts, ends, axes and steps differ in length", where=node.describe())
    if 0 in steps:
        raise ShapeError("a step is zero", where=node.describe())
    each = zip(axes, starts, ends, steps, strict=True)
    return {normalise_axis(a, rank, node): _Cut(i, b, e, s) for i, (a, b, e, s) in enumerate(each)}


def _count(size: Dim, cut: _Cut) -> Dim:
    """How many indices a slice takes of a dimension."""
    start, stop, step = cut.start, cut.stop, cut.step
    if not isinstance(step, int) or start is None or stop is None:
        return None
    if start == 0 and isinstance(stop, int) and stop >= _FAR and step == 1:
        return size
    if isinstance(size, int) and isinstance(start, int) and isinstance(stop, int):
        return len(range(*slice(start, stop, step).indices(size)))
    last = D.add(size, -1)
    if step > 0:
        first, end = _from_front(start, size, 0), _clamp(stop, size, 0, size)
        return maximum(0, D.ceil_div(D.add(end, D.mul(first, -1)), step))
    first, end = _clamp(start, size, -1, last), _from_front(stop, size, -1)
    return maximum(0, D.ceil_div(D.add(first, D.mul(end, -1)), -step))


def _clamp(bound: Dim, size: Dim, low: int, high: Dim) -> Dim:
    """A bound as a position between `low` and `high`."""
    if bound is not None and at_least(bound, _FAR):
        return high
    return minimum(_from_front(bound, size, low), high)


def _from_front(bound: Dim, size: Dim, low: int) -> Dim:
    """A bound counted from the front, not below `low`; it may lie behind the end."""
    if bound is None or at_least(bound, 0):
        return bound
    if at_least(-_FAR, bound):
        return low
    return maximum(low, D.add(size, bound)) if at_least(-1, bound) else None


def infer_slice(node: Node) -> list[ValueType]:
    x = input_type(node, 0)
    if x.shape is None:
        return [x]
    cuts = _cuts(node, len(x.shape))
    if cuts is None:
        return [x.with_shape((None,) * len(x.shape))]
    return [x.with_shape(_count(d, cuts[i]) if i in cuts else d for i, d in enumerate(x.shape))]


def evaluate_slice(node: Node) -> list[np.ndarray | None]:
    known = contents(node.input(0))
    cuts = None if known is None else _cuts(node, known.ndim)
    if known is None or cuts is None:
        return [None]
    for axis, cut in cuts.items():
        index = _index(known.shape, axis, cut)
        if index is None:
            return [None]
        known = known.take(list(index), axis)
    return [known]


def _index(shape: Shape | Sequence[int], axis: int, cut: _Cut) -> range | None:
    """The indices that a slice takes, when they are known numbers."""
    size, start, stop, step = shape[axis], cut.start, cut.stop, cut.step
    if isinstance(size, int) and isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        return range(*slice(start, stop, step).indices(size))
    return None


def _is_comb(size: Dim, cut: _Cut, index: range) -> bool:
    """True for a slice that takes one of every few indices of a whole dimension: one place of each period."""
    step = index.step
    whole = isinstance(size, int) and len(index) * step == size and index.start < step
    return step > 1 and whole and isinstance(cut.stop, int) and cut.stop >= 0


def relate_slice(node: Node) -> Relation:
    relation, x, y = Relation(), node.operand(0), node.output
    cuts = None if x.shape is None else _cuts(node, len(x.shape))
    if x.shape is None or y.shape is None or cuts is None:
        return relation
    tie_dims(relation, x, y, ((d, d) for d in range(len(x.shape)) if d not in cuts))
    for axis, cut in cuts.items():
        index = _index(x.shape, axis, cut)
        if index is None or not (rewritable(node.input(1), cut.place) and rewritable(node.input(2), cut.place)):
            freeze(relation, "it is sliced between bounds that are not known", (x, axis), (y, axis))
        elif _is_comb(x.shape[axis], cut, index):
            label, size = f"d{axis}", len(index)
            relation.tie(label, size, (y, axis))
            relation.axes[x, axis] = (Axis(label, size), Axis(f"{label} step", abs(index.step)))
            relation.frozen[f"{label} step"] = "it is sliced with a step"
        elif cut.step not in (1, -1):
            freeze(relation, "it is sliced with a step", (x, axis), (y, axis))
        else:
            relation.select((y, axis), (x, axis), index)
    return relation


def shrink_slice(node: Node, edit: Shrinkage) -> None:
    x = node.operand(0)
    cuts = None if x.shape is None else _cuts(node, len(x.shape))
    if x.shape is None or cuts is None:
        return
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for axis, cut in cuts.items():
        kept, index = edit.kept(x, axis), _index(x.shape, axis, cut)
        if kept is None or index is None or cut.step not in (1, -1):
            continue
        low, high = (min(index), max(index) + 1) if index else (0, 0)
        first, after = torch.searchsorted(kept, torch.tensor([low, high])).tolist()
        wanted = range(first, after)[:: cut.step]
        if _index([len(kept)], 0, cut) != wanted:
            starts[cut.place], ends[cut.place] = _bounds(wanted)
    if starts:
        rewrite(node, 1, edit, starts)
        rewrite(node, 2, edit, ends)


def _bounds(index: range) -> tuple[int, int]:
    """Start and end of the slice that takes `index`; an end before the first element is written as -2**31 + 1."""
    return index.start, index.stop if index.stop >= 0 else -_FAR


# -- Trilu


def trilu(x: torch.Tensor, k: torch.Tensor | int | None = None, *, upper: int = 1) -> torch.Tensor:
    """ONNX Trilu: the upper or lower triangle of the last two dimensions, from diagonal `k`."""
    diagonal = 0 if k is None else int(scalar(k))
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


def relate_trilu(node: Node) -> Relation:
    relation, x, rank = Relation(), node.operand(0), node.operand(0).rank or 0
    tie_dims(relation, x, node.output, ((d, d) for d in range(rank - 2)))
    matrix = [(v, d) for v in (x, node.output) for d in range(max(rank - 2, 0), rank)]
    freeze(relation, "its indices say what is masked", *matrix)
    return relation


# -- ReverseSequence


def reverse_sequence(
    x: torch.Tensor, lengths: torch.Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> torch.Tensor:
    """ONNX ReverseSequence: the first `lengths[b]` steps of batch entry b in reverse order."""
    step = torch.arange(x.shape[time_axis], device=x.device)
    index = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)
    index = index if time_axis > batch_axis else index.T
    index = index.reshape([x.shape[d] if d in (batch_axis, time_axis) else 1 for d in range(x.dim())])
    return x.gather(time_axis, index.expand(x.shape))


def relate_reverse_sequence(node: Node) -> Relation:
    relation, x, y = Relation(), node.operand(0), node.output
    for dim in range(x.rank or 0):
        if dim == attribute(node, "batch_axis"):
            tie(relation, "batch", (x, dim), (y, dim), (node.operand(1), 0))
        elif dim == attribute(node, "time_axis"):
            freeze(relation, "it is time", (x, dim), (y, dim))
        else:
            tie(relation, f"d{dim}", (x, dim), (y, dim))
    return relation


register(
    Operator("Slice", infer_slice, slice_, relate_slice, evaluate=evaluate_slice, shrink=shrink_slice, moves=True),
    Operator("Trilu", same_as(0), trilu, relate_trilu),
    Operator("ReverseSequence", same_as(0), reverse_sequence, relate_reverse_sequence),
)

__all__ = ["reverse_sequence", "slice_", "trilu"]
