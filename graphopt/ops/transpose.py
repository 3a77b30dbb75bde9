"""Operators that permute elements: Transpose, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import contents, input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import tie_dims
from graphopt.ops.relation import Relation, labels

# -- Transpose


def transpose(x: torch.Tensor, *, perm: Sequence[int] = ()) -> torch.Tensor:
    """ONNX Transpose; without `perm` the dimensions are reversed."""
    return x.permute(tuple(perm) or tuple(range(x.dim() - 1, -1, -1)))


def permutation(node: Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose, default filled in; ``None`` when the rank is not known."""
    perm = tuple(attribute(node, "perm") or ())
    rank = node.operand(0).rank
    if perm and rank is not None and sorted(perm) != list(range(rank)):
        raise ShapeError(f"perm {list(perm)} is no permutation of {rank} dimensions", where=node.describe())
    if perm or rank is None:
        return perm or None
    return tuple(reversed(range(rank)))


def infer_transpose(node: Node) -> list[ValueType]:
    x, perm = input_type(node, 0), permutation(node)
    if x.shape is None or perm is None:
        return [x.with_shape(None if perm is None else (None,) * len(perm))]
    return [x.with_shape(x.shape[i] for i in perm)]


def evaluate_transpose(node: Node) -> list[np.ndarray | None]:
    known = contents(node.input(0))
    return [None if known is None else known.transpose(permutation(node))]


def relate_transpose(node: Node) -> Relation:
    relation, perm = Relation(), permutation(node)
    if perm is not None and node.operand(0).shape is not None and node.output.shape is not None:
        tie_dims(relation, node.operand(0), node.output, ((i, j) for j, i in enumerate(perm)))
    return relation


# -- blocks


def depth_to_space(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    """ONNX DepthToSpace: [N, b*b*C, H, W] -> [N, C, H*b, W*b]; channels are (b b C) in DCR, (C b b) in CRD."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def space_to_depth(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    """ONNX SpaceToDepth: [N, C, H*b, W*b] -> [N, b*b*C, H, W]; channels are (b b C), or for CRD (C b b)."""
    n, c, h, w = x.shape
    b = blocksize
    order = (0, 1, 3, 5, 2, 4) if mode == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b**2, h // b, w // b)


def _divided(node: Node, dim: Dim, by: int) -> Dim:
    if isinstance(dim, int) and dim % by:
        raise ShapeError(f"dimension {dim} is not divisible by {by}", where=node.describe())
    return D.floor_div(dim, by)


def infer_depth_to_space(node: Node) -> list[ValueType]:
    x, b = input_type(node, 0), attribute(node, "blocksize")
    if x.shape is None:
        return [TensorType(x.dtype, (None,) * 4)]
    n, c, h, w = x.shape
    return [x.with_shape((n, _divided(node, c, b * b), D.mul(h, b), D.mul(w, b)))]


def infer_space_to_depth(node: Node) -> list[ValueType]:
    x, b = input_type(node, 0), attribute(node, "blocksize")
    if x.shape is None:
        return [TensorType(x.dtype, (None,) * 4)]
    n, c, h, w = x.shape
    return [x.with_shape((n, D.mul(c, b * b), _divided(node, h, b), _divided(node, w, b)))]


_SPATIAL = dict.fromkeys(("b1", "b2", "h", "w"), "it is a spatial dimension")


def relate_depth_to_space(node: Node) -> Relation:
    b = attribute(node, "blocksize")
    channels = "(c !b1 !b2)" if attribute(node, "mode") == "CRD" else "(!b1 !b2 c)"
    return labels(node, f"n {channels} !h !w -> n c (!h !b1) (!w !b2)", {"b1": b, "b2": b}, _SPATIAL)


def relate_space_to_depth(node: Node) -> Relation:
    b = attribute(node, "blocksize")
    channels = "(c !b1 !b2)" if attribute(node, "mode") == "CRD" else "(!b1 !b2 c)"
    return labels(node, f"n c (!h !b1) (!w !b2) -> n {channels} !h !w", {"b1": b, "b2": b}, _SPATIAL)


register(
    Operator(
        "Transpose",
        infer_transpose,
        transpose,
        relate_transpose,
        evaluate=evaluate_transpose,
        homogeneous=True,
        moves=True,
    ),
    Operator("DepthToSpace", infer_depth_to_space, depth_to_space, relate_depth_to_space),
    Operator("SpaceToDepth", infer_space_to_depth, space_to_depth, relate_space_to_depth),
)

__all__ = ["depth_to_space", "permutation", "space_to_depth", "transpose"]
