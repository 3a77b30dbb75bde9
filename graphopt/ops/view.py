"""Operators that change a tensor's shape and leave its elements in order: Reshape, Flatten, Squeeze, Unsqueeze."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, Shape, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import contents, input_type, integers, normalise_axis, static_integers
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze_all, relate_row_major, tie_dims
from graphopt.ops.relation import Relation, Shrinkage
from graphopt.ops.vectors import IntVector, ints, quotient, rewritable, rewrite, vector_length

# -- Reshape


def reshape(x: torch.Tensor, shape: IntVector, *, allowzero: int = 0) -> torch.Tensor:
    """ONNX Reshape: 0 copies a dimension of `x` (unless `allowzero`), -1 is computed."""
    target = ints(shape)
    if not allowzero:
        copied = [i for i, size in enumerate(target) if size == 0]
        target = [x.shape[i] if size == 0 else size for i, size in enumerate(target)]
        if copied and -1 in target and x.numel() == 0:  # torch cannot tell -1 beside a zero; the other dimensions do
            rest = math.prod(size for i, size in enumerate(x.shape) if i not in copied)
            known = math.prod(size for i, size in enumerate(target) if i not in copied and size != -1)
            target = [rest // max(known, 1) if size == -1 else size for size in target]
    return x.reshape(target)


def infer_reshape(node: Node) -> list[ValueType]:
    x = input_type(node, 0)
    target = integers(node.input(1))
    if target is None:
        rank = vector_length(node.input(1))
        return [x.with_shape(None if rank is None else (None,) * rank)]
    return [x.with_shape(_target_shape(node, x.shape, target))]


def _target_shape(node: Node, source: Shape | None, target: Sequence[Dim]) -> Shape:
    copies = not attribute(node, "allowzero")
    if copies and source is not None and any(d == 0 and i >= len(source) for i, d in enumerate(target)):
        raise ShapeError(f"0 in shape {list(target)} copies a dimension that the input lacks", where=node.describe())
    shape: list[Dim] = [
        (None if source is None else source[i]) if d == 0 and copies else d for i, d in enumerate(target)
    ]
    # At run time an element that is not known may be a size, a 0 or a -1: the number of elements decides all the same.
    open_dims = [i for i, d in enumerate(target) if d == -1] or [i for i, d in enumerate(target) if d is None]
    if target.count(-1) > 1:
        raise ShapeError(f"shape {list(target)} has more than one -1", where=node.describe())
    if len(open_dims) == 1 and source is not None:
        copied = {i for i, d in enumerate(target) if d == 0 and copies}
        rest = [d for i, d in enumerate(shape) if i != open_dims[0] and i not in copied]
        shape[open_dims[0]] = quotient([d for i, d in enumerate(source) if i not in copied], rest)
    shape = [None if d == -1 else d for d in shape]
    _require_same_count(node, source, shape)
    return tuple(shape)


def _require_same_count(node: Node, source: Shape | None, shape: Sequence[Dim]) -> None:
    if source is None or not D.is_static(source) or not D.is_static(shape):
        return
    if D.product(source) != D.product(shape):
        raise ShapeError(
            f"{D.product(source)} elements of shape {list(source)} do not fill shape {list(shape)}",
            where=node.describe(),
        )


def evaluate_reshape(node: Node) -> list[np.ndarray | None]:
    """Contents of the result of any operator that keeps elements in order: the input's, in the output's shape."""
    known = contents(node.input(0))
    if known is None:
        return [None]
    kind = _RULES[node.op](node)[0]
    shape = kind.shape if isinstance(kind, TensorType) else None
    if shape is None or not D.is_static(shape):
        return [None]
    return [known.reshape([d for d in shape if isinstance(d, int)])]


def relate_reshape(node: Node) -> Relation:
    if _new_shape(node) is None:
        relation = Relation()
        freeze_all(relation, "its shape is computed when the graph runs", node.operand(0), node.output)
        return relation
    return relate_row_major(node.operand(0), node.output)


def _new_shape(node: Node) -> Shape | None:
    """The shape input as it can be written when dimensions shrink; ``None`` when it cannot.

    A vector of numbers becomes a constant (0 and -1 stand for what is only known when the graph runs). One with
    expressions in it has its numbers replaced where they are, if all dimensions that can shrink are numbers there.
    """
    shape, source = node.output.shape, node.operand(0).shape
    if shape is None or source is None:
        return None
    target = static_integers(node.input(1))
    if target is not None:
        return tuple(target)
    copies = not attribute(node, "allowzero")
    written: list[Dim] = [
        d if isinstance(d, int) else 0 if copies and i < len(source) and D.same(d, source[i]) else -1
        for i, d in enumerate(shape)
    ]
    if written.count(-1) <= 1:
        return tuple(written)
    movable = [i for i, d in enumerate(shape) if isinstance(d, int)]
    in_place = movable and all(rewritable(node.input(1), i) for i in movable)
    return tuple(integers(node.input(1)) or ()) if in_place else None


def shrink_reshape(node: Node, edit: Shrinkage) -> None:
    x, y = node.operand(0), node.output
    written = _new_shape(node)
    if written is None or (x.shape is not None and all(edit.kept(x, d) is None for d in range(len(x.shape)))):
        return
    sizes: dict[int, int] = {}
    for dim, old in enumerate(written):
        size = edit.size(y, dim)
        copied = old == 0 and not attribute(node, "allowzero")
        right = old == -1 or (copied and D.same(size, edit.size(x, dim)))
        if isinstance(size, int) and isinstance(old, int) and not right:
            sizes[dim] = size
    if not all(isinstance(d, int) for d in written):
        rewrite(node, 1, edit, sizes)
        return
    new = [sizes.get(i, d) for i, d in enumerate(written)]
    if new != static_integers(node.input(1)):
        edit.set_constant(node, 1, torch.tensor(new, dtype=torch.int64))


# -- Flatten


def flatten(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    """ONNX Flatten: always a matrix, split at `axis`."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def infer_flatten(node: Node) -> list[ValueType]:
    x, axis = input_type(node, 0), attribute(node, "axis")
    if x.shape is None:
        return [x.with_shape((None, None))]
    rank = len(x.shape)
    if not -rank <= axis <= rank:
        raise ShapeError(f"axis {axis} is out of range for rank {rank}", where=node.describe())
    axis = axis + rank if axis < 0 else axis
    return [x.with_shape((D.product(x.shape[:axis]), D.product(x.shape[axis:])))]


def relate_flatten(node: Node) -> Relation:
    return relate_row_major(node.operand(0), node.output)


# -- Squeeze


def squeeze(x: torch.Tensor, axes: IntVector | None = None) -> torch.Tensor:
    """ONNX Squeeze; without `axes` all dimensions of size one go."""
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


def _squeezed(node: Node) -> list[int] | None:
    """The dimensions that a Squeeze removes; ``None`` when they are not known."""
    shape = node.operand(0).shape
    if shape is None:
        return None
    if node.input(1) is not None:
        axes = static_integers(node.input(1))
        return None if axes is None else [normalise_axis(a, len(shape), node) for a in axes]
    return [i for i, d in enumerate(shape) if d == 1] if D.is_static(shape) else None


def infer_squeeze(node: Node) -> list[ValueType]:
    x, axes = input_type(node, 0), _squeezed(node)
    if x.shape is None or axes is None:
        return [x.with_shape(None)]
    wrong = [x.shape[a] for a in axes if isinstance(x.shape[a], int) and x.shape[a] != 1]
    if wrong:
        raise ShapeError(f"cannot squeeze dimensions {axes} of {x}: not of size one", where=node.describe())
    return [x.with_shape(d for i, d in enumerate(x.shape) if i not in axes)]


def relate_squeeze(node: Node) -> Relation:
    relation, axes = Relation(), _squeezed(node)
    x = node.operand(0)
    if x.shape is None or axes is None or node.output.shape is None:
        return relation
    kept = [i for i in range(len(x.shape)) if i not in axes]
    tie_dims(relation, x, node.output, zip(kept, range(len(kept)), strict=True))
    relation.axes.update({(x, a): () for a in axes})
    return relation


# -- Unsqueeze


def unsqueeze(x: torch.Tensor, axes: IntVector) -> torch.Tensor:
    """ONNX Unsqueeze; `axes` count in the result."""
    where = ints(axes)
    rank = x.dim() + len(where)
    for axis in sorted(a + rank if a < 0 else a for a in where):
        x = x.unsqueeze(axis)
    return x


def _unsqueezed(node: Node) -> list[int] | None:
    shape, axes = node.operand(0).shape, static_integers(node.input(1))
    if shape is None or axes is None:
        return None
    found = [normalise_axis(a, len(shape) + len(axes), node) for a in axes]
    if len(set(found)) != len(found):
        raise ShapeError(f"axes {axes} name a dimension twice", where=node.describe())
    return found


def infer_unsqueeze(node: Node) -> list[ValueType]:
    x, axes = input_type(node, 0), _unsqueezed(node)
    if x.shape is None:
        return [x.with_shape(None)]
    if axes is None:
        added = vector_length(node.input(1))
        return [x.with_shape(None if added is None else (None,) * (len(x.shape) + added))]
    rest = iter(x.shape)
    return [x.with_shape(1 if i in axes else next(rest) for i in range(len(x.shape) + len(axes)))]


def relate_unsqueeze(node: Node) -> Relation:
    relation, axes = Relation(), _unsqueezed(node)
    x, y = node.operand(0), node.output
    if x.shape is None or axes is None or y.shape is None:
        return relation
    kept = [i for i in range(len(y.shape)) if i not in axes]
    tie_dims(relation, x, y, enumerate(kept))
    relation.axes.update({(y, a): () for a in axes})
    return relation


_RULES = {
    "Reshape": infer_reshape,
    "Flatten": infer_flatten,
    "Squeeze": infer_squeeze,
    "Unsqueeze": infer_unsqueeze,
}

register(
    Operator(
        "Reshape",
        infer_reshape,
        reshape,
        relate_reshape,
        evaluate=evaluate_reshape,
        shrink=shrink_reshape,
        homogeneous=True,
        moves=True,
    ),
    Operator(
        "Flatten", infer_flatten, flatten, relate_flatten, evaluate=evaluate_reshape, homogeneous=True, moves=True
    ),
    Operator(
        "Squeeze",
        infer_squeeze,
        squeeze,
        relate_squeeze,
        evaluate=evaluate_reshape,
        inline=True,
        homogeneous=True,
        moves=True,
    ),
    Operator(
        "Unsqueeze",
        infer_unsqueeze,
        unsqueeze,
        relate_unsqueeze,
        evaluate=evaluate_reshape,
        homogeneous=True,
        moves=True,
    ),
)

__all__ = ["flatten", "reshape", "squeeze", "unsqueeze"]
