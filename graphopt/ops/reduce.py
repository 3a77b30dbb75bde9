"""Reductions over axes: Reduce*, ArgMax and ArgMin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TypeAlias

import numpy as np
import torch

from graphopt.ir import Dim, DType, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops import contents as C
from graphopt.ops.contents import fit, strict
from graphopt.ops.infer import contents, input_type, normalise_axis, object_array, static_integers
from graphopt.ops.record import Compute, Evaluate, Operator, attribute, register
from graphopt.ops.relation import Relation

#: Axes as a node has them: a tensor, or the numbers themselves.
Axes: TypeAlias = torch.Tensor | Sequence[int] | None
#: Reduces the given (non-negative, ascending, non-empty) dimensions of a tensor to one element each, which is kept.
Kernel: TypeAlias = Callable[[torch.Tensor, list[int]], torch.Tensor]


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """The dimensions of input 0 that a Reduce* node reduces, ascending; ``None`` when they are not known."""
    data, axes = input_type(node, 0), node.input(1)
    if data.shape is None:
        return None
    rank = len(data.shape)
    named = [] if axes is None or axes.shape == (0,) else static_integers(axes)
    if named is None:
        return None
    if not named:
        return () if attribute(node, "noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted({normalise_axis(a, rank, node) for a in named})) if rank else ()


def infer_reduce(node: Node) -> list[ValueType]:
    """Type rule of Reduce*; with axes that are not known, as much of the shape as follows from their number."""
    data, axes = input_type(node, 0), reduced_axes(node)
    keep = bool(attribute(node, "keepdims"))
    if data.shape is None:
        return [TensorType(data.dtype)]
    if axes is not None:
        return [TensorType(data.dtype, reduced_shape(data.shape, axes, keep))]
    rank = len(data.shape)
    if keep:
        return [TensorType(data.dtype, (None,) * rank)]
    count = input_type(node, 1).numel
    known = isinstance(count, int) and count > 0
    return [TensorType(data.dtype, (None,) * (rank - count) if known and isinstance(count, int) else None)]


def reduced_shape(shape: Sequence[Dim], axes: Sequence[int], keep: bool) -> tuple[Dim, ...]:
    """`shape` with `axes` set to 1, or left out."""
    return tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)


def _reduction(kernel: Kernel, single: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Compute:
    """The computation of a Reduce* operator.

    Args:
        kernel: the reduction.
        single: what remains to be done when there is nothing to reduce over; by default, nothing.
    """

    def compute(
        data: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> torch.Tensor:
        named = axes.flatten().tolist() if isinstance(axes, torch.Tensor) else list(axes or ())
        if not named:
            named = [] if noop_with_empty_axes else list(range(data.dim()))
        dims = sorted({int(a) % max(data.dim(), 1) for a in named}) if data.dim() else []
        if not dims:
            return single(data) if single else data
        result = kernel(data, dims)
        if keepdims:
            return result
        return result.reshape([size for dim, size in enumerate(result.shape) if dim not in dims])

    return compute


def _in_double(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """`function`, through float64 for integers."""

    def through(x: torch.Tensor) -> torch.Tensor:
        return function(x) if x.is_floating_point() else function(x.double()).to(x.dtype)

    return through


def _sum(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return torch.sum(x, dims, keepdim=True, dtype=x.dtype)


def _mean(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    if x.is_floating_point():
        return torch.mean(x, dims, keepdim=True)
    count = int(np.prod([x.shape[d] for d in dims]))
    return torch.div(torch.sum(x, dims, keepdim=True), count, rounding_mode="trunc").to(x.dtype)


def _prod(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    for dim in dims:
        x = torch.prod(x, dim, keepdim=True, dtype=x.dtype)
    return x


def _extreme(function: Callable[..., torch.Tensor], largest: bool) -> Kernel:
    def kernel(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
        if all(x.shape[d] for d in dims):
            return function(x, dims, keepdim=True)
        shape = [1 if d in dims else size for d, size in enumerate(x.shape)]
        return torch.full(shape, _least(x.dtype) if largest else _greatest(x.dtype), dtype=x.dtype, device=x.device)

    return kernel


def _least(dtype: torch.dtype) -> float | int | bool:
    if dtype is torch.bool:
        return False
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _greatest(dtype: torch.dtype) -> float | int | bool:
    if dtype is torch.bool:
        return True
    return torch.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def _l2(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return _in_double(lambda wide: torch.linalg.vector_norm(wide, dim=dims, keepdim=True))(x)


def _log_sum_exp(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return _in_double(lambda wide: torch.logsumexp(wide, dims, keepdim=True))(x)


_KERNELS: dict[str, Compute] = {
    "ReduceSum": _reduction(_sum),
    "ReduceMean": _reduction(_mean),
    "ReduceProd": _reduction(_prod),
    "ReduceMax": _reduction(_extreme(torch.amax, largest=True)),
    "ReduceMin": _reduction(_extreme(torch.amin, largest=False)),
    "ReduceL1": _reduction(lambda x, dims: _sum(x.abs(), dims), torch.abs),
    "ReduceL2": _reduction(_l2, torch.abs),
    "ReduceSumSquare": _reduction(lambda x, dims: _sum(x * x, dims), torch.square),
    "ReduceLogSum": _reduction(lambda x, dims: _in_double(torch.log)(_sum(x, dims)), _in_double(torch.log)),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
}

# What a zero does not contribute to: removing an index is the same as zeroing it, but for the count that a mean takes.
_SUMS = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"})


def relate_reduce(node: Node) -> Relation | None:
    """Kept dimensions go through. A summed one is contracted; any other reduced one must stay whole."""
    axes = reduced_axes(node)
    reason = "" if node.op in _SUMS else f"{node.op} over this axis"
    return None if axes is None else relate_reduced(node, axes, bool(attribute(node, "keepdims")), reason)


def relate_reduced(node: Node, axes: Sequence[int], keep: bool, reason: str = "") -> Relation | None:
    """The relation of a reduction of input 0 to one output; with a `reason`, the reduced axes are frozen."""
    x, y = node.operand(0), node.output
    if x.shape is None:
        return None
    relation = Relation()
    target = 0
    for dim, size in enumerate(x.shape):
        if dim not in axes:
            relation.tie(f"d{dim}", size, (x, dim), (y, target))
        else:
            relation.tie(f"r{dim}", size, (x, dim))
            if reason:
                relation.frozen[f"r{dim}"] = reason
            if keep:
                relation.axes[y, target] = ()
        target += keep or dim not in axes
    return relation


def _evaluate_with(rule: Callable[..., Dim]) -> Evaluate:
    combine = strict(rule)

    def evaluate(node: Node) -> Sequence[np.ndarray | None]:
        known, axes = contents(node.operand(0)), reduced_axes(node)
        if known is None or axes is None or known.size == 0:
            return [None]
        kept = [i for i in range(known.ndim) if i not in axes]
        shape = reduced_shape(known.shape, axes, bool(attribute(node, "keepdims")))
        rows = known.transpose([*kept, *axes]).reshape(int(np.prod([known.shape[i] for i in kept])), -1)
        dtype = node.operand(0).dtype
        found = [fit(reduce(combine, [D.normalise(d) for d in row]), dtype) for row in rows]
        if all(element is None for element in found):
            return [None]
        return [object_array(found, [d for d in shape if isinstance(d, int)])]

    return evaluate


_CONTENTS: dict[str, Evaluate] = {
    "ReduceSum": _evaluate_with(D.add),
    "ReduceProd": _evaluate_with(D.mul),
    "ReduceMax": _evaluate_with(C.maximum),
    "ReduceMin": _evaluate_with(C.minimum),
}


def _extreme_index(function: Callable[..., torch.Tensor]) -> Compute:
    def compute(x: torch.Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> torch.Tensor:
        if not select_last_index:
            return function(x, axis, keepdim=bool(keepdims))
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=bool(keepdims))

    return compute


def infer_index(node: Node) -> list[ValueType]:
    """Type rule of ArgMax and ArgMin: int64."""
    x = input_type(node, 0)
    if x.shape is None:
        return [TensorType(DType.INT64)]
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    return [TensorType(DType.INT64, reduced_shape(x.shape, (axis,), bool(attribute(node, "keepdims"))))]


def _searched(node: Node) -> tuple[int, ...]:
    x = input_type(node, 0)
    return () if x.shape is None else (normalise_axis(attribute(node, "axis"), len(x.shape), node),)


def relate_index(node: Node) -> Relation | None:
    """All but the searched axis go through; the result is positions in it, wherever these may be looked up."""
    relation = relate_reduced(node, _searched(node), bool(attribute(node, "keepdims")))
    if relation is not None:
        relation.positions.update((node.output, (node.operand(0), axis)) for axis in _searched(node))
    return relation


register(
    *(
        Operator(
            name,
            infer_reduce,
            compute,
            relate_reduce,
            evaluate=_CONTENTS.get(name),
            normalises=(lambda node: reduced_axes(node) or ()) if name in _SUMS else None,
            reduces="terms" if name in ("ReduceSum", "ReduceL1", "ReduceSumSquare") else "features",
            homogeneous=name in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"),
        )
        for name, compute in _KERNELS.items()
    ),
    *(
        Operator(
            name, infer_index, _extreme_index(function), relate_index, inline=True, normalises=_searched,
            reduces="alternatives",
        )
        for name, function in (("ArgMax", torch.argmax), ("ArgMin", torch.argmin))
    ),
)  # fmt: skip

__all__ = ["reduced_axes", "reduced_shape", "relate_reduced"]
