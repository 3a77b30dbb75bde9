"""Repetition: Expand and Tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphopt.ir import Dim, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import MAX_KNOWN, broadcast, contents, input_type, integers, static_integers
from graphopt.ops.record import Operator, register
from graphopt.ops.refinement import freeze, tie
from graphopt.ops.relation import Axis, Relation, Shrinkage
from graphopt.ops.vectors import IntVector, ints, rewritable, rewrite, vector_length

# -- Expand


def expand(x: torch.Tensor, shape: IntVector) -> torch.Tensor:
    """ONNX Expand: broadcasts `x` and `shape` both ways (a 1 in `shape` keeps the dimension of `x`)."""
    wanted = ints(shape)
    rank = max(len(wanted), x.dim())
    wanted = [1] * (rank - len(wanted)) + wanted
    own = [1] * (rank - x.dim()) + list(x.shape)
    return x.expand([size if new == 1 else new for size, new in zip(own, wanted, strict=True)])


def infer_expand(node: Node) -> list[ValueType]:
    x, shape = input_type(node, 0), integers(node.input(1))
    if shape is None:
        length = vector_length(node.input(1))
        shape = None if length is None else [None] * length
    if x.shape is None or shape is None:
        return [x.with_shape(None)]
    return [x.with_shape(broadcast(node, x.shape, tuple(shape)))]


def evaluate_expand(node: Node) -> list[np.ndarray | None]:
    known, shape = contents(node.input(0)), static_integers(node.input(1))
    if known is None or shape is None:
        return [None]
    whole = np.broadcast_shapes(known.shape, tuple(shape))
    return [np.broadcast_to(known, whole).copy() if np.prod(whole, dtype=np.int64) <= MAX_KNOWN else None]


def relate_expand(node: Node) -> Relation:
    relation, x, y = Relation(), node.operand(0), node.output
    length = vector_length(node.input(1)) or len(integers(node.input(1)) or ())
    if x.shape is None or y.shape is None:
        return relation
    lead = len(y.shape) - len(x.shape)
    for dim, size in enumerate(y.shape):
        place, own = dim - (len(y.shape) - length), dim - lead
        refs = [(y, dim)] if own < 0 or x.shape[own] == 1 else [(x, own), (y, dim)]
        if own >= 0 and x.shape[own] == 1:
            relation.axes[x, own] = ()
        if place >= 0 and size != 1 and not rewritable(node.input(1), place):
            freeze(relation, "it is expanded to a size that is computed when the graph runs", *refs)
        else:
            tie(relation, f"d{dim}", *refs)
    return relation


def shrink_expand(node: Node, edit: Shrinkage) -> None:
    y, shape = node.output, integers(node.input(1))
    if y.shape is None or shape is None:
        return
    lead = len(y.shape) - len(shape)
    sizes = {i: edit.size(y, i + lead) for i, old in enumerate(shape) if isinstance(old, int) and old != 1}
    rewrite(node, 1, edit, {i: size for i, size in sizes.items() if isinstance(size, int)})


# -- Tile


def tile(x: torch.Tensor, repeats: IntVector) -> torch.Tensor:
    """ONNX Tile: one number of repetitions per dimension."""
    return x.repeat(ints(repeats)) if x.dim() else x.clone()


def _repeats(node: Node) -> Sequence[Dim] | None:
    shape, repeats = node.operand(0).shape, integers(node.input(1))
    return [None] * len(shape) if shape is not None and repeats is None else repeats


def infer_tile(node: Node) -> list[ValueType]:
    x, repeats = input_type(node, 0), _repeats(node)
    if x.shape is None or repeats is None:
        return [TensorType(x.dtype, None if repeats is None else (None,) * len(repeats))]
    return [x.with_shape(D.mul(d, r) for d, r in zip(x.shape, repeats, strict=True))]


def evaluate_tile(node: Node) -> list[np.ndarray | None]:
    known, repeats = contents(node.input(0)), static_integers(node.input(1))
    if known is None or repeats is None or known.size * np.prod(repeats, dtype=np.int64) > MAX_KNOWN:
        return [None]
    return [np.tile(known, repeats)]


def relate_tile(node: Node) -> Relation:
    relation, x, y, repeats = Relation(), node.operand(0), node.output, _repeats(node)
    if x.shape is None or y.shape is None or repeats is None:
        return relation
    for dim, (size, times) in enumerate(zip(x.shape, repeats, strict=True)):
        if times == 1:
            tie(relation, f"d{dim}", (x, dim), (y, dim))
        elif isinstance(size, int) and isinstance(times, int) and size:
            axes = () if size == 1 else (Axis(f"d{dim}", size),)
            relation.axes[x, dim] = axes
            relation.axes[y, dim] = (Axis(f"r{dim}", times), *axes)
        else:
            freeze(relation, "how often it is repeated is not known", (x, dim), (y, dim))
    return relation


def shrink_tile(node: Node, edit: Shrinkage) -> None:
    x, y, repeats = node.operand(0), node.output, _repeats(node)
    if x.shape is None or repeats is None:
        return
    new: dict[int, int] = {}
    for dim, old in enumerate(repeats):
        before, after = edit.size(x, dim), edit.size(y, dim)
        if isinstance(old, int) and isinstance(before, int) and isinstance(after, int) and before:
            new[dim] = after // before
    if new:
        rewrite(node, 1, edit, new)


register(
    Operator(
        "Expand",
        infer_expand,
        expand,
        relate_expand,
        evaluate=evaluate_expand,
        shrink=shrink_expand,
        homogeneous=True,
        moves=True,
    ),
    Operator("Tile", infer_tile, tile, relate_tile, evaluate=evaluate_tile, shrink=shrink_tile, moves=True),
)

__all__ = ["expand", "tile"]
