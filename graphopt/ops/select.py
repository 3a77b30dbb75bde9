"""Operators whose result's size depends on values: NonZero, Compress, Unique."""

from __future__ import annotations

import numpy as np
import torch

from graphopt.ir import DType, Node, TensorType, ValueType
from graphopt.ops.infer import contents, input_type, normalise_axis, object_array
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze, tie
from graphopt.ops.relation import Relation

# -- NonZero


def nonzero(x: torch.Tensor) -> torch.Tensor:
    """ONNX NonZero: one column per non-zero element; int64 [rank, count]."""
    return torch.nonzero(x).T


def infer_nonzero(node: Node) -> list[ValueType]:
    known = evaluate_nonzero(node)[0]
    count = None if known is None else known.shape[1]
    return [TensorType(DType.INT64, (input_type(node, 0).rank, count))]


def evaluate_nonzero(node: Node) -> list[np.ndarray | None]:
    known = contents(node.input(0))
    if known is None or not all(isinstance(d, int) for d in known.flat):
        return [None]
    found = np.argwhere(known.astype(np.int64)).T
    return [object_array(found.reshape(-1).tolist(), found.shape)]


# -- Compress


def compress(x: torch.Tensor, condition: torch.Tensor, *, axis: int | None = None) -> torch.Tensor:
    """ONNX Compress: the indices of `axis` (of the flattened input without it) where `condition` holds."""
    wanted = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1)[wanted] if axis is None else x.index_select(axis, wanted)


def infer_compress(node: Node) -> list[ValueType]:
    x, axis, condition = input_type(node, 0), attribute(node, "axis"), contents(node.input(1))
    count = int(condition.astype(bool).sum()) if condition is not None and None not in condition else None
    if axis is None:
        return [TensorType(x.dtype, (count,))]
    if x.shape is None:
        return [x]
    axis = normalise_axis(axis, len(x.shape), node)
    return [x.with_shape((*x.shape[:axis], count, *x.shape[axis + 1 :]))]


def relate_compress(node: Node) -> Relation:
    relation, x, y, axis = Relation(), node.operand(0), node.output, attribute(node, "axis")
    if x.shape is None or y.shape is None or axis is None:
        return relation
    axis = normalise_axis(axis, len(x.shape), node)
    freeze(relation, "a condition selects from it", (x, axis), (y, axis))
    for dim in range(len(x.shape)):
        if dim != axis:
            tie(relation, f"d{dim}", (x, dim), (y, dim))
    return relation


# -- Unique


def unique(
    x: torch.Tensor, *, axis: int | None = None, sorted: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ONNX Unique: the values (or slices along `axis`), where each first occurs, the inverse, and the counts."""
    flat = x.reshape(-1) if axis is None else x
    values, inverse, counts = torch.unique(
        flat, sorted=True, return_inverse=True, return_counts=True, dim=0 if axis is None else axis
    )
    inverse = inverse.reshape(-1)
    positions = torch.arange(len(inverse), device=x.device)
    first = torch.full_like(counts, len(inverse)).scatter_reduce(0, inverse, positions, "amin")
    if not sorted:
        order = first.argsort()
        values = values.index_select(0 if axis is None else axis, order)
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    return values, first, inverse, counts


def infer_unique(node: Node) -> list[ValueType]:
    x, axis = input_type(node, 0), attribute(node, "axis")
    vector = TensorType(DType.INT64, (None,))
    if axis is None:
        inverse, values = x.numel, x.with_shape((None,))
    elif x.shape is None:
        inverse, values = None, x
    else:
        axis = normalise_axis(axis, len(x.shape), node)
        inverse, values = x.shape[axis], x.with_shape((*x.shape[:axis], None, *x.shape[axis + 1 :]))
    return [values, vector, TensorType(DType.INT64, (inverse,)), vector]


register(
    Operator("NonZero", infer_nonzero, nonzero, evaluate=evaluate_nonzero),
    Operator("Compress", infer_compress, compress, relate_compress),
    Operator("Unique", infer_unique, unique),
)

__all__ = ["compress", "nonzero", "unique"]
