"""Scans that choose, selections by masks, searching and bags of embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphopt.backends.lower import NoLowering, cut, extent_of, lowers, rank_of, real, scalar
from graphopt.ir import DType, Value
from graphopt.ops.builder import Builder

#: Combines the result of the earlier elements with that of the later ones; both are lists of tensors.
Combine = Callable[[list[Value], list[Value]], list[Value]]


def _scan(b: Builder, states: list[Value], axis: int, combine: Combine) -> list[Value]:
    """What `combine` makes of all elements up to each: in as many steps as the extent has bits.

    Hillis and Steele (1986), "Data parallel algorithms".
    """
    extent, step = extent_of(states[0], axis), 1
    while step < extent:
        earlier = [cut(b, state, axis, 0, extent - step) for state in states]
        later = [cut(b, state, axis, step, extent) for state in states]
        joined = combine(earlier, later)
        heads = [cut(b, state, axis, 0, step) for state in states]
        states = [b.Concat(head, tail, axis=axis) for head, tail in zip(heads, joined, strict=True)]
        step *= 2
    return states


def _running(b: Builder, x: Value, dim: int, better: str) -> tuple[Value, Value]:
    rank = rank_of(real(x))
    if rank == 0:
        return x, b.constant(torch.tensor(0))
    axis = dim % rank
    extent = extent_of(x, axis)
    numbers = b.constant(torch.arange(extent).reshape([-1] + [1] * (rank - 1 - axis)))
    places = b.Expand(numbers, b.Shape(x))

    def combine(earlier: list[Value], later: list[Value]) -> list[Value]:
        wins = b(better, later[0], earlier[0])
        if x.dtype.is_float:
            wins = b.Or(wins, b.IsNaN(later[0]))
        return [b.Where(wins, new, old) for new, old in zip(later, earlier, strict=True)]

    values, indices = _scan(b, [x, places], axis, combine)
    return values, indices


@lowers("cummax")
def _cummax(b: Builder, self: Value, dim: int) -> tuple[Value, Value]:
    return _running(b, self, dim, "GreaterOrEqual")


@lowers("cummin")
def _cummin(b: Builder, self: Value, dim: int) -> tuple[Value, Value]:
    return _running(b, self, dim, "LessOrEqual")


@lowers("logcumsumexp")
def _logcumsumexp(b: Builder, self: Value, dim: int) -> Value:
    rank = rank_of(real(self))
    if rank == 0:
        return self

    def combine(earlier: list[Value], later: list[Value]) -> list[Value]:
        (x,), (y,) = earlier, later
        largest = b.Max(x, y)
        gap = b.Neg(b.Abs(b.Sub(x, y)))
        gap = b.Where(b.Equal(x, y), scalar(b, 0, x), gap)  # also where both are infinite
        return [b.Add(largest, b.Log(b.Add(b.Exp(gap), scalar(b, 1, x))))]

    return _scan(b, [self], dim % rank, combine)[0]


# -- selections


@lowers("masked_select")
def _masked_select(b: Builder, self: Value, mask: Value) -> Value:
    shape = b.Shape(b.Add(b.Cast(real(self), to=int(DType.FLOAT32)), b.Cast(mask, to=int(DType.FLOAT32))))
    flat, chosen = (b.Reshape(b.Expand(each, shape), [-1]) for each in (self, mask))
    return b.Compress(flat, chosen, axis=0)


@lowers("masked_scatter")
def _masked_scatter(b: Builder, self: Value, mask: Value, source: Value) -> Value:
    """The n-th place of the mask takes the n-th element of the source."""
    shape = b.Shape(b.Add(b.Cast(real(self), to=int(DType.FLOAT32)), b.Cast(mask, to=int(DType.FLOAT32))))
    chosen = b.Expand(mask, shape)
    flat = b.Cast(b.Reshape(chosen, [-1]), to=int(DType.INT64))
    order = b.Max(b.Sub(b.CumSum(flat, b.constant(torch.tensor(0))), b.constant([1])), b.constant([0]))
    # Places that are not chosen may count further than the source has elements.
    taken = b.Gather(b.Reshape(source, [-1]), b.Mul(order, flat), axis=0)
    return b.Where(chosen, b.Reshape(taken, shape), b.Expand(self, shape))


@lowers("_unique2", "_unique")
def _unique(
    b: Builder, self: Value, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> tuple[Value, ...]:
    values, _, inverse, counts = b.Unique(b.Reshape(real(self), [-1]), sorted=1, outputs=4)
    return values, b.Reshape(inverse, b.Shape(self)), counts


@lowers("searchsorted.Tensor")
def _searchsorted(
    b: Builder,
    sorted_sequence: Value,
    self: Value,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """How many elements of its sequence are below each value."""
    if sorter is not None or rank_of(real(sorted_sequence)) != rank_of(self):
        raise NoLowering("a sorter, or one sequence for all")
    compare = b.LessOrEqual if right or side == "right" else b.Less
    below = compare(b.Unsqueeze(sorted_sequence, [-2]), b.Unsqueeze(self, [-1]))
    count = b.ReduceSum(b.Cast(below, to=int(DType.INT64)), [-1], keepdims=0)
    return b.Cast(count, to=int(DType.INT32)) if out_int32 else count


# -- bags


@lowers("embedding_bag", "embedding_bag.padding_idx", "_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(
    b: Builder,
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Value | None, ...]:
    """Sums, means or maxima of the rows from each offset up to the next."""
    if padding_idx not in (None, -1):
        raise NoLowering("padding in the bags")
    starts = b.Cast(offsets, to=int(DType.INT64))
    count = b.Shape(starts)
    if include_last_offset:
        count = b.Sub(count, b.constant([1]))
        starts = b.Slice(starts, [0], [-1], [0])
    total = b.Squeeze(b.Shape(indices), [0])
    places = b.Range(b.constant(torch.tensor(0)), total, b.constant(torch.tensor(1)))
    passed = b.Cast(b.LessOrEqual(b.Unsqueeze(starts, [0]), b.Unsqueeze(places, [1])), to=int(DType.INT64))
    bags = b.Sub(b.ReduceSum(passed, [1], keepdims=1), b.constant([1]))
    rows = b.Gather(weight, indices, axis=0)
    if per_sample_weights is not None:
        rows = b.Mul(rows, b.Unsqueeze(per_sample_weights, [1]))
    shape = b.Concat(count, b.Shape(weight, start=1, end=2), axis=0)
    zeros = b.Expand(scalar(b, 0, weight), shape)
    found = _collected(b, mode, bags, rows, zeros, count)
    return found, None, None, None


def _collected(b: Builder, mode: int, bags: Value, rows: Value, zeros: Value, count: Value) -> Value:
    """Rows put together by bag: 0 sums, 1 means, 2 maxima; zeros for an empty bag."""
    ones = b.Expand(scalar(b, 1, rows), b.Shape(bags))
    empty = b.Expand(scalar(b, 0, rows), b.Concat(count, b.constant([1]), axis=0))
    sizes: Any = b.ScatterND(empty, bags, ones, reduction="add")
    if mode == 2:
        lowest = b.Add(zeros, b.constant(torch.tensor(float("-inf")), like=rows))
        largest = b.ScatterND(lowest, bags, rows, reduction="max")
        return b.Where(b.Equal(sizes, scalar(b, 0, rows)), zeros, largest)
    sums: Value = b.ScatterND(zeros, bags, rows, reduction="add")
    return sums if mode == 0 else b.Div(sums, b.Max(sizes, scalar(b, 1, rows)))
