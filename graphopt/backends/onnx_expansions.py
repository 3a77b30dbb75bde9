"""Operators in terms of older ones, where ONNX defines no function, or one that loses precision.

ONNX's functions for LayerNormalization and GroupNormalization compute the variance as E[x^2] - E[x]^2, which cancels
when the mean is large; the one for Gelu is written with Sum, which no runtime looks for. What stands here is the form
that exporters have always written, which runtimes fuse back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F

from graphopt.ir import DType, Node, Value
from graphopt.ops.builder import Builder, Operand
from graphopt.ops.infer import integers
from graphopt.ops.record import attribute

#: Makes the values that replace a node's outputs; ``None`` when too little is known about the node.
Expansion: TypeAlias = Callable[[Node, Builder], Sequence[Value | None] | None]

#: By operator.
EXPANSIONS: dict[str, Expansion] = {}


def _expands(op: str) -> Callable[[Expansion], Expansion]:
    def decorate(expansion: Expansion) -> Expansion:
        EXPANSIONS[op] = expansion
        return expansion

    return decorate


def _scalar(b: Builder, number: float, like: Value) -> Value:
    return b.constant(torch.tensor(number, dtype=like.dtype.torch), dtype=like.dtype)


def _stashed(node: Node, b: Builder) -> Value:
    """The input in the precision that statistics are computed in."""
    x, stash = node.operand(0), DType(attribute(node, "stash_type"))
    return x if x.dtype is stash else b.Cast(x, to=int(stash))


def _restored(x: Value, node: Node, b: Builder) -> Value:
    wanted = node.operand(0).dtype
    return x if x.dtype is wanted else b.Cast(x, to=int(wanted))


@_expands("LayerNormalization")
def _layer_norm(node: Node, b: Builder) -> list[Value] | None:
    rank = node.operand(0).rank
    if rank is None or node.operand(0).dtype is DType.UNDEFINED:
        return None
    first = int(attribute(node, "axis")) % rank
    axes = b.constant([axis - rank for axis in range(first, rank)])
    x = _stashed(node, b)
    mean = b.ReduceMean(x, axes, keepdims=1)
    centred = b.Sub(x, mean)
    variance = b.ReduceMean(b.Pow(centred, _scalar(b, 2.0, x)), axes, keepdims=1)
    deviation = b.Sqrt(b.Add(variance, _scalar(b, float(attribute(node, "epsilon")), x)))
    result = b.Mul(_restored(b.Div(centred, deviation), node, b), node.input(1))
    if node.input(2) is not None:
        result = b.Add(result, node.input(2))
    wanted = [v.uses or v.name for v in node.outputs]
    return [result, *([mean] if any(wanted[1:]) else []), *([b.Reciprocal(deviation)] if any(wanted[2:]) else [])]


@_expands("GroupNormalization")
def _group_norm(node: Node, b: Builder) -> list[Value] | None:
    x, groups = node.operand(0), int(attribute(node, "num_groups"))
    if x.rank is None or x.rank < 3 or x.dtype is DType.UNDEFINED:
        return None
    stash = _stashed(node, b)
    ones = b.constant(torch.ones(groups, dtype=stash.dtype.torch), dtype=stash.dtype)
    zeros = b.constant(torch.zeros(groups, dtype=stash.dtype.torch), dtype=stash.dtype)
    grouped = b.Reshape(stash, [0, groups, -1])
    normal = b.InstanceNormalization(grouped, ones, zeros, epsilon=float(attribute(node, "epsilon")))
    result = _restored(b.Reshape(normal, b.Shape(x)), node, b)
    column = [-1] + [1] * (x.rank - 2)
    return [b.Add(b.Mul(result, b.Reshape(node.input(1), column)), b.Reshape(node.input(2), column))]


@_expands("Swish")
def _swish(node: Node, b: Builder) -> list[Value] | None:
    x, alpha = node.operand(0), float(attribute(node, "alpha"))
    if x.dtype is DType.UNDEFINED:
        return None
    return [b.Mul(x, b.Sigmoid(x if alpha == 1 else b.Mul(x, _scalar(b, alpha, x))))]


@_expands("Gelu")
def _gelu(node: Node, b: Builder) -> list[Value] | None:
    x = node.operand(0)
    if x.dtype is DType.UNDEFINED:
        return None
    if attribute(node, "approximate") == "tanh":
        cubic = b.Add(x, b.Mul(b.Pow(x, _scalar(b, 3, x)), _scalar(b, 0.044715, x)))
        curve = b.Tanh(b.Mul(cubic, _scalar(b, math.sqrt(2 / math.pi), x)))
    else:
        curve = b.Erf(b.Div(x, _scalar(b, math.sqrt(2), x)))
    return [b.Mul(b.Mul(x, _scalar(b, 0.5, x)), b.Add(curve, _scalar(b, 1, x)))]


@_expands("Shape")
def _shape(node: Node, b: Builder) -> list[Value] | None:
    end = node.attributes.get("end")
    stop = torch.iinfo(torch.int64).max if end is None else int(end)
    return [b.Slice(b.Shape(node.input(0)), [int(node.attributes.get("start", 0))], [stop], [0])]


@_expands("Trilu")
def _trilu(node: Node, b: Builder) -> list[Value] | None:
    x = node.operand(0)
    if x.dtype is DType.UNDEFINED:
        return None
    shape = b.Shape(x)
    rows, columns = _positions(b, b.Gather(shape, -2)), _positions(b, b.Gather(shape, -1))
    offset = b.Sub(b.Unsqueeze(columns, [0]), b.Unsqueeze(rows, [1]))
    diagonal: Operand = 0 if node.input(1) is None else node.input(1)
    compare = b.GreaterOrEqual if attribute(node, "upper") else b.LessOrEqual
    return [b.Where(compare(offset, diagonal), x, _scalar(b, 0, x))]


def _positions(b: Builder, count: Value) -> Value:
    return b.Range(0, count, 1)


@_expands("AffineGrid")
def _affine_grid(node: Node, b: Builder) -> list[Value] | None:
    """A product with the grid of the identity; ONNX's function takes a batch of one for a dimension to drop."""
    theta, size = node.operand(0), integers(node.input(1)) or []
    space = [extent for extent in size[2:] if isinstance(extent, int)]
    rank = len(size) - 2
    if theta.dtype is DType.UNDEFINED or not space or len(space) < rank:
        return None
    identity = torch.eye(rank, rank + 1)[None]
    grid = F.affine_grid(identity, [1, 1, *space], bool(attribute(node, "align_corners"))).reshape(-1, rank)
    points = b.constant(torch.cat([grid, torch.ones(len(grid), 1)], 1).to(theta.dtype.torch), dtype=theta.dtype)
    moved = b.MatMul(points, b.Transpose(theta, perm=[0, 2, 1]))
    return [b.Reshape(moved, [-1, *space, rank])]


@_expands("CumProd")
def _cumulative_product(node: Node, b: Builder) -> list[Value] | None:
    """Element j is the product over all elements i of the axis that it takes, by a mask of i and j."""
    x, axis = node.operand(0), node.operand(1)
    if x.rank is None or x.dtype is DType.UNDEFINED or not axis.is_constant or axis.data is None:
        return None
    place = int(axis.data) % x.rank
    factors = b.Unsqueeze(x, [place + 1])
    size = _positions(b, b.Gather(b.Shape(x), place))
    i, j = b.Unsqueeze(size, [1]), b.Unsqueeze(size, [0])
    if node.attributes.get("reverse", 0):
        i, j = j, i
    taken = b.Less(i, j) if node.attributes.get("exclusive", 0) else b.LessOrEqual(i, j)
    behind = x.rank - place - 1
    if behind:
        taken = b.Unsqueeze(taken, list(range(2, 2 + behind)))
    return [b.ReduceProd(b.Where(taken, factors, _scalar(b, 1, x)), [place], keepdims=0)]
