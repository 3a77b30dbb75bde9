"""Writing by index: ScatterElements, ScatterND, TensorScatter."""

from __future__ import annotations

import math

import numpy as np
import torch

from graphopt.ir import Node
from graphopt.ops.gather import from_front, tie_elementwise
from graphopt.ops.infer import contents, normalise_axis, same_as
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze, tie
from graphopt.ops.relation import Relation

_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(
    x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, axis: int = 0, reduction: str = "none"
) -> torch.Tensor:
    """ONNX ScatterElements; `reduction` is none, add, mul, max or min. Which of several writes wins is not defined."""
    index = from_front(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCE[reduction])


def relate_scatter_elements(node: Node) -> Relation:
    relation, x = Relation(), node.operand(0)
    indexed = [node.operand(1), node.operand(2)]
    if x.shape is None or any(value.shape is None for value in (*indexed, node.output)):
        return relation
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    tie_elementwise(relation, axis, [x, node.output], indexed)
    return relation


def scatter_nd(
    x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, reduction: str = "none"
) -> torch.Tensor:
    """ONNX ScatterND; `reduction` is none, add, mul, max or min."""
    depth = indices.shape[-1]
    if reduction == "none":
        return x.index_put(tuple(indices.long().unbind(-1)), updates)
    leading = x.shape[:depth]
    strides = [math.prod(leading[d + 1 :]) for d in range(depth)]
    rows = sum(from_front(i, n) * s for i, n, s in zip(indices.unbind(-1), leading, strides, strict=True))
    row = torch.as_tensor(rows, device=x.device).reshape(-1)
    flat, new = x.reshape(math.prod(leading), -1), updates.reshape(row.numel(), -1)
    return flat.scatter_reduce(0, row[:, None].expand_as(new), new, _REDUCE[reduction]).reshape(x.shape)


def evaluate_scatter_nd(node: Node) -> list[np.ndarray | None]:
    known, indices, updates = (contents(node.input(i)) for i in range(3))
    if known is None or indices is None or updates is None or attribute(node, "reduction") != "none":
        return [None]
    if not all(isinstance(i, int) for i in indices.flat):
        return [None]
    result = known.copy()
    result[tuple(np.moveaxis(indices.astype(np.int64), -1, 0))] = updates
    return [result]


def relate_scatter_nd(node: Node) -> Relation:
    relation, x, indices, updates, y = (
        Relation(),
        node.operand(0),
        node.operand(1),
        node.operand(2),
        node.output,
    )
    if x.shape is None or indices.shape is None or updates.shape is None or y.shape is None:
        return relation
    depth, lead = indices.shape[-1], len(indices.shape) - 1
    if not isinstance(depth, int):
        return relation
    for dim in range(depth):
        tie(relation, f"p{dim}", (x, dim), (y, dim))
        relation.frozen[f"p{dim}"] = "its positions are given by indices"
    relation.columns[indices] = tuple((x, dim) for dim in range(depth))
    for dim in range(depth, len(x.shape)):
        tie(relation, f"d{dim}", (x, dim), (updates, dim - depth + lead), (y, dim))
    return relation


def tensor_scatter(
    cache: torch.Tensor,
    update: torch.Tensor,
    write_indices: torch.Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> torch.Tensor:
    """ONNX TensorScatter: writes `update` into `cache` along `axis` from a start that each batch entry has."""
    axis = axis + cache.dim() if axis < 0 else axis
    steps = torch.arange(update.shape[axis], device=cache.device)
    starts = steps.new_zeros(cache.shape[0]) if write_indices is None else write_indices
    index = starts[:, None] + steps
    if mode == "circular":
        index = index % cache.shape[axis]
    index = index.reshape([index.shape[0] if d == 0 else -1 if d == axis else 1 for d in range(cache.dim())])
    return cache.scatter(axis, index.expand(update.shape), update)


def relate_tensor_scatter(node: Node) -> Relation:
    relation, x, update, y = Relation(), node.operand(0), node.operand(1), node.output
    if x.shape is None or update.shape is None or y.shape is None:
        return relation
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    starts = node.input(2)
    for dim in range(len(x.shape)):
        if dim == axis:
            freeze(relation, "its positions are given by indices", (x, dim), (update, dim), (y, dim))
        else:
            more = [(starts, 0)] if starts is not None and dim == 0 else []
            tie(relation, f"d{dim}", (x, dim), (update, dim), (y, dim), *more)
    return relation


register(
    Operator("ScatterElements", same_as(0), scatter_elements, relate_scatter_elements),
    Operator("ScatterND", same_as(0), scatter_nd, relate_scatter_nd, evaluate=evaluate_scatter_nd),
    Operator("TensorScatter", same_as(0), tensor_scatter, relate_tensor_scatter),
)

__all__ = ["scatter_elements", "scatter_nd", "tensor_scatter"]
