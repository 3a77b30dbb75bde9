"""Concat and Split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, Shape, TensorType, Value, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import MAX_KNOWN, contents, input_type, integers, normalise_axis
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze, tie
from graphopt.ops.relation import Relation, Shrinkage
from graphopt.ops.vectors import IntVector, ints, partial_contents, rewrite

# -- Concat


def concat(*xs: torch.Tensor, axis: int) -> torch.Tensor:
    """ONNX Concat."""
    return torch.cat(xs, axis)


def infer_concat(node: Node) -> list[ValueType]:
    kinds = [input_type(node, i) for i in range(len(node.inputs))]
    dtype = kinds[0].dtype
    shapes = [kind.shape for kind in kinds if kind.shape is not None]
    if not shapes:
        return [TensorType(dtype)]
    rank = len(shapes[0])
    if any(len(shape) != rank for shape in shapes):
        raise ShapeError(f"inputs have ranks {[len(s) for s in shapes]}", where=node.describe())
    axis = normalise_axis(attribute(node, "axis"), rank, node)
    result = [_common(node, [shape[d] for shape in shapes]) for d in range(rank)]
    result[axis] = D.add(*(s[axis] for s in shapes)) if len(shapes) == len(kinds) else None
    _check_others(node, shapes, axis)
    return [TensorType(dtype, tuple(result))]


def _common(node: Node, dims: Sequence[Dim]) -> Dim:
    return next((d for d in dims if isinstance(d, int)), next((d for d in dims if d is not None), None))


def _check_others(node: Node, shapes: Sequence[Shape], axis: int) -> None:
    for d in range(len(shapes[0])):
        numbers = {shape[d] for shape in shapes if isinstance(shape[d], int)}
        if d != axis and len(numbers) > 1:
            raise ShapeError(f"inputs differ along dimension {d}: {sorted(map(str, numbers))}", where=node.describe())


def evaluate_concat(node: Node) -> list[np.ndarray | None]:
    parts = [partial_contents(value) for value in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or all(d is None for part in known for d in part.flat):
        return [None]
    return [np.concatenate(known, attribute(node, "axis")) if sum(p.size for p in known) <= MAX_KNOWN else None]


def relate_concat(node: Node) -> Relation:
    return relate_joined(node, [value for value in node.inputs if value is not None])


def relate_joined(node: Node, inputs: Sequence[Value]) -> Relation:
    """The relation of an operator that concatenates `inputs`, which need not be all that it reads."""
    relation, y = Relation(), node.output
    if y.shape is None or any(value.shape is None for value in inputs):
        return relation
    axis = normalise_axis(attribute(node, "axis"), len(y.shape), node)
    for dim in range(len(y.shape)):
        if dim != axis:
            tie(relation, f"d{dim}", (y, dim), *((value, dim) for value in inputs))
    sizes = [value.shape[axis] if value.shape is not None else None for value in inputs]
    start = 0
    for value, size in zip(inputs, sizes, strict=True):
        if not isinstance(size, int) or not D.is_static(sizes):
            freeze(relation, "it is concatenated with a dimension of unknown size", (value, axis))
            continue
        relation.select((value, axis), (y, axis), range(start, start + size))
        start += size
    return relation


# -- Split


def split(
    x: torch.Tensor,
    sizes: IntVector | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    outputs: int = 1,
) -> tuple[torch.Tensor, ...]:
    """ONNX Split into parts of `sizes`, or into as many equal ones as there are outputs (the last may be smaller)."""
    parts = even_parts(x.shape[axis], num_outputs or outputs) if sizes is None else ints(sizes)
    return tuple(torch.split(x, parts, axis))


def even_parts(size: int, count: int) -> list[int]:
    """Sizes of `count` equal parts; the last ones may be smaller."""
    chunk = -(-size // count)
    return [max(min(chunk, size - i * chunk), 0) for i in range(count)]


def _parts(node: Node) -> list[Dim]:
    """Sizes of the outputs along the axis, as far as known."""
    count = len(node.outputs)
    shape = node.operand(0).shape
    size = None if shape is None else shape[normalise_axis(attribute(node, "axis"), len(shape), node)]
    if node.input(1) is not None:
        sizes = integers(node.input(1)) or [None] * count
        _check_parts(node, size, sizes)
        return sizes
    if isinstance(size, int):
        return list(even_parts(size, count))
    chunk = D.ceil_div(size, count)
    return [chunk] * (count - 1) + [D.add(size, D.mul(chunk, 1 - count))]


def _check_parts(node: Node, size: Dim, sizes: Sequence[Dim]) -> None:
    if len(sizes) != len(node.outputs):
        raise ShapeError(f"{len(sizes)} sizes for {len(node.outputs)} outputs", where=node.describe())
    total = D.add(*sizes)
    if isinstance(size, int) and isinstance(total, int) and size != total:
        raise ShapeError(f"parts {list(sizes)} do not add up to {size}", where=node.describe())


def infer_split(node: Node) -> list[ValueType]:
    x = input_type(node, 0)
    if x.shape is None:
        return [TensorType(x.dtype)] * len(node.outputs)
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    return [x.with_shape((*x.shape[:axis], part, *x.shape[axis + 1 :])) for part in _parts(node)]


def evaluate_split(node: Node) -> list[np.ndarray | None]:
    known, parts = contents(node.input(0)), _parts(node)
    sizes = [d for d in parts if isinstance(d, int)]
    if known is None or len(sizes) < len(parts):
        return [None] * len(node.outputs)
    return list(np.split(known, np.cumsum(sizes)[:-1], attribute(node, "axis")))


def relate_split(node: Node) -> Relation:
    relation, x = Relation(), node.operand(0)
    if x.shape is None:
        return relation
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    outputs = [value for value in node.outputs if value.shape is not None]
    for dim in range(len(x.shape)):
        if dim != axis:
            tie(relation, f"d{dim}", (x, dim), *((value, dim) for value in outputs))
    parts = _parts(node)
    sizes = [d for d in parts if isinstance(d, int)]
    if len(sizes) < len(parts) or sum(sizes) != x.shape[axis]:
        freeze(relation, "the sizes it is split into are not known", (x, axis), *((v, axis) for v in outputs))
        return relation
    start = 0
    for value, size in zip(node.outputs, sizes, strict=True):
        if value.shape is not None:
            relation.select((value, axis), (x, axis), range(start, start + size))
        start += size
    return relation


def shrink_split(node: Node, edit: Shrinkage) -> None:
    x = node.operand(0)
    if x.shape is None:
        return
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    kept = edit.kept(x, axis)
    old = [d for d in _parts(node) if isinstance(d, int)]
    if kept is None or len(old) < len(node.outputs):
        return
    bounds = torch.tensor([0, *np.cumsum(old)])
    new = torch.searchsorted(kept, bounds).diff().tolist()
    if node.input(1) is not None:
        rewrite(node, 1, edit, dict(enumerate(new)))
    elif new != even_parts(len(kept), len(new)):
        node.set_inputs([x, None])
        node.attributes.pop("num_outputs", None)
        edit.set_constant(node, 1, torch.tensor(new, dtype=torch.int64))


register(
    Operator("Concat", infer_concat, concat, relate_concat, evaluate=evaluate_concat, inline=True, joins=True),
    Operator("Split", infer_split, split, relate_split, evaluate=evaluate_split, shrink=shrink_split, moves=True),
)

__all__ = ["concat", "even_parts", "relate_joined", "split"]
