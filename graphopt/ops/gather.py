"""Reading by index: Gather, GatherElements, GatherND."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphopt.errors import ShapeError
from graphopt.ir import Node, TensorType, Value, ValueType
from graphopt.ops.infer import contents, input_type, normalise_axis, static_integers
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import extent, freeze, tie, tie_dims
from graphopt.ops.relation import Relation, Shrinkage


def from_front(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Indices with negative ones counted from the end of a dimension."""
    return torch.where(indices < 0, indices + size, indices).long()


# -- Gather


def gather(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    """ONNX Gather: indices of any rank take the place of `axis`."""
    key: Any = indices.long()
    before: Any = (slice(None),) * axis if axis >= 0 else (...,)
    return x[(*before, key, *(slice(None),) * (-axis - 1))]


def infer_gather(node: Node) -> list[ValueType]:
    x, indices = input_type(node, 0), input_type(node, 1)
    if x.shape is None or indices.shape is None:
        return [TensorType(x.dtype)]
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    size, wanted = x.shape[axis], static_integers(node.input(1))
    if wanted and isinstance(size, int) and not all(-size <= i < size for i in wanted):
        raise ShapeError(f"an index is out of range for a dimension of {size}", where=node.describe())
    return [x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]


def evaluate_gather(node: Node) -> list[np.ndarray | None]:
    known, indices = contents(node.input(0)), contents(node.input(1))
    if known is None or indices is None or not all(isinstance(i, int) for i in indices.flat):
        return [None]
    return [np.asarray(known.take(indices.astype(np.int64), attribute(node, "axis")), dtype=object)]


def constant_index(node: Node) -> tuple[int, list[int]] | None:
    """Axis and non-negative indices of a Gather by a known vector along a dimension of known size."""
    x, indices = node.operand(0), node.operand(1)
    wanted = static_integers(indices)
    if x.shape is None or wanted is None or indices.rank != 1:
        return None
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    size = x.shape[axis]
    return (axis, [i % size for i in wanted]) if isinstance(size, int) and size else None


def relate_gather(node: Node) -> Relation:
    relation, x, indices, y = Relation(), node.operand(0), node.operand(1), node.output
    if x.shape is None or indices.rank is None or y.shape is None:
        return relation
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    shift = indices.rank - 1
    tie_dims(relation, x, y, ((d, d if d < axis else d + shift) for d in range(len(x.shape)) if d != axis))
    found = constant_index(node)
    if found is not None:
        relation.select((y, axis), (x, axis), found[1])
    elif static_integers(indices) is not None:
        freeze(relation, "single indices are picked from it", (x, axis))
    else:
        freeze(relation, "it is looked up by an index that is computed when the graph runs", (x, axis))
        relation.positions[indices] = (x, axis)
        for dim in range(indices.rank):
            tie(relation, f"i{dim}", (indices, dim), (y, axis + dim))
    return relation


def shrink_gather(node: Node, edit: Shrinkage) -> None:
    found = constant_index(node)
    if found is None:
        return
    renumbered = _renumbered(node, edit, *found)
    if renumbered is not None:
        edit.set_constant(node, 1, renumbered)


def _renumbered(node: Node, edit: Shrinkage, axis: int, index: list[int]) -> torch.Tensor | None:
    """What is left of `index`, in the numbers of what is left of dimension `axis`; ``None`` when nothing has gone."""
    kept, left = edit.kept(node.operand(0), axis), edit.kept(node.output, axis)
    if kept is None and left is None:
        return None
    wanted = torch.tensor(index) if left is None else torch.tensor(index)[left]
    renumbered = wanted if kept is None else torch.searchsorted(kept, wanted)
    return renumbered.to(node.operand(1).dtype.torch)


# -- GatherElements


def gather_elements(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    """ONNX GatherElements: as torch.gather, negative indices allowed."""
    return x.gather(axis, from_front(indices, x.shape[axis]))


def infer_gather_elements(node: Node) -> list[ValueType]:
    return [input_type(node, 0).with_shape(input_type(node, 1).shape)]


def tie_elementwise(relation: Relation, axis: int, whole: Sequence[Value], indexed: Sequence[Value]) -> None:
    """Ties of GatherElements and ScatterElements: `indexed` values line up with `whole` ones outside of `axis`.

    The first of `indexed` are the indices into that axis.
    """
    for dim in range(whole[0].rank or 0):
        refs = [(value, dim) for value in whole], [(value, dim) for value in indexed]
        if dim == axis:
            tie(relation, "indexed", *refs[0])
            relation.frozen["indexed"] = "its positions are given by indices"
            relation.positions[indexed[0]] = refs[0][0]
        elif len({extent(ref) for ref in (*refs[0], *refs[1])}) == 1:
            tie(relation, f"d{dim}", *refs[0], *refs[1])
        else:
            freeze(relation, "only part of it is indexed", *refs[0], *refs[1])


def relate_gather_elements(node: Node) -> Relation:
    relation, x, indices, y = Relation(), node.operand(0), node.operand(1), node.output
    if x.shape is None or indices.shape is None or y.shape is None:
        return relation
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    tie_elementwise(relation, axis, [x], [indices, y])
    tie(relation, "picked", (indices, axis), (y, axis))
    return relation


# -- GatherND


def gather_nd(x: torch.Tensor, indices: torch.Tensor, *, batch_dims: int = 0) -> torch.Tensor:
    """ONNX GatherND: the last dimension of `indices` addresses dimensions of `x` behind the batch dimensions."""
    batch: list[torch.Tensor] = []
    for dim in range(batch_dims):
        shape = [1] * (indices.dim() - 1)
        shape[dim] = x.shape[dim]
        batch.append(torch.arange(x.shape[dim], device=x.device).reshape(shape))
    return x[(*batch, *indices.long().unbind(-1))]


def infer_gather_nd(node: Node) -> list[ValueType]:
    x, indices = input_type(node, 0), input_type(node, 1)
    if x.shape is None or indices.shape is None or not isinstance(indices.shape[-1], int):
        return [TensorType(x.dtype)]
    depth = attribute(node, "batch_dims") + indices.shape[-1]
    if depth > len(x.shape):
        raise ShapeError(f"indices address {depth} of {len(x.shape)} dimensions", where=node.describe())
    return [x.with_shape(indices.shape[:-1] + x.shape[depth:])]


def constant_rows(node: Node) -> list[int] | None:
    """Non-negative indices of a GatherND that takes known rows, as a Gather along dimension 0 does."""
    x, indices = node.operand(0), node.operand(1)
    wanted, size = static_integers(indices), x.shape[0] if x.shape else None
    if wanted is None or indices.shape != (len(wanted), 1) or attribute(node, "batch_dims"):
        return None
    return [i % size for i in wanted] if isinstance(size, int) and size else None


def relate_gather_nd(node: Node) -> Relation:
    relation, x, indices, y = Relation(), node.operand(0), node.operand(1), node.output
    if x.shape is None or indices.shape is None or y.shape is None or not isinstance(indices.shape[-1], int):
        return relation
    rows = constant_rows(node)
    if rows is not None:
        relation.select((y, 0), (x, 0), rows)
        tie_dims(relation, x, y, ((dim, dim) for dim in range(1, len(x.shape))))
        return relation
    batch, lead = attribute(node, "batch_dims"), len(indices.shape) - 1
    depth = batch + indices.shape[-1]
    freeze(
        relation,
        "its positions are given by indices",
        *((x, d) for d in range(batch, depth)),
        (indices, lead),
    )
    relation.columns[indices] = tuple((x, dim) for dim in range(batch, depth))
    for dim in range(lead):
        tie(relation, f"i{dim}", *([(x, dim)] if dim < batch else []), (indices, dim), (y, dim))
    tie_dims(relation, x, y, ((d, d - depth + lead) for d in range(depth, len(x.shape))))
    return relation


def shrink_gather_nd(node: Node, edit: Shrinkage) -> None:
    rows = constant_rows(node)
    renumbered = None if rows is None else _renumbered(node, edit, 0, rows)
    if renumbered is not None:
        edit.set_constant(node, 1, renumbered[:, None])


register(
    Operator(
        "Gather",
        infer_gather,
        gather,
        relate_gather,
        evaluate=evaluate_gather,
        shrink=shrink_gather,
        inline=True,
    ),
    Operator("GatherElements", infer_gather_elements, gather_elements, relate_gather_elements, inline=True),
    Operator("GatherND", infer_gather_nd, gather_nd, relate_gather_nd, shrink=shrink_gather_nd),
)

__all__ = ["constant_index", "from_front", "gather", "gather_elements", "gather_nd", "tie_elementwise"]
