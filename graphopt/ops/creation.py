"""Tensors made from nothing or from a shape: Constant, ConstantOfShape, EyeLike, OneHot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import DType, Node, TensorType, ValueType
from graphopt.ir.literals import SparseTensor
from graphopt.ops.infer import MAX_KNOWN, input_type, integers, normalise_axis, object_array, static_integers
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze, tie
from graphopt.ops.relation import Relation, Shrinkage
from graphopt.ops.vectors import IntVector, ints, rewritable, rewrite, scalar, vector_length

# -- Constant


def constant(
    *,
    value: torch.Tensor | np.ndarray | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
    value_string: str | None = None,
    value_strings: Sequence[str] | None = None,
    sparse_value: Any = None,
) -> torch.Tensor:
    """ONNX Constant; a sparse one with its zeros. Raises UnsupportedOperatorError for strings."""
    if value is not None and not (isinstance(value, np.ndarray) and value.dtype == object):
        return value if isinstance(value, torch.Tensor) else torch.from_numpy(value)
    for number, dtype in ((value_float, torch.float32), (value_int, torch.int64)):
        if number is not None:
            return torch.tensor(number, dtype=dtype)
    for numbers, dtype in ((value_floats, torch.float32), (value_ints, torch.int64)):
        if numbers is not None:
            return torch.tensor(list(numbers), dtype=dtype)
    if sparse_value is not None and isinstance(sparse_value.values, torch.Tensor):
        return cast(SparseTensor, sparse_value).dense()
    raise UnsupportedOperatorError("a Constant of strings cannot be computed with torch")


def infer_constant(node: Node) -> list[ValueType]:
    held = node.attributes
    strings = held.get("value_strings")
    if "value_string" in held or strings is not None:
        return [TensorType(DType.STRING, () if strings is None else (len(strings),))]
    value = held.get("value")
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [TensorType(DType.STRING, value.shape)]
    if "sparse_value" in held:
        sparse = cast(SparseTensor, held["sparse_value"])
        return [TensorType(sparse.dtype, sparse.shape)]
    return [TensorType.of(constant(**held))]


def evaluate_constant(node: Node) -> list[np.ndarray | None]:
    kind = infer_constant(node)[0]
    if not isinstance(kind, TensorType) or not (kind.dtype.is_integer or kind.dtype is DType.BOOL):
        return [None]
    data = constant(**node.attributes)
    return [None if data.numel() > MAX_KNOWN else object_array(data.reshape(-1).tolist(), data.shape)]


# -- ConstantOfShape


def constant_of_shape(shape: IntVector, *, value: torch.Tensor | np.ndarray | None = None) -> torch.Tensor:
    """ONNX ConstantOfShape: filled with the one element of `value`, float32 zeros by default."""
    device = shape.device if isinstance(shape, torch.Tensor) else None
    fill = _fill(value)
    return torch.full(ints(shape), fill.item(), dtype=fill.dtype, device=device)


def _fill(value: torch.Tensor | np.ndarray | None) -> torch.Tensor:
    if value is None:
        return torch.zeros(1)
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(value)


def infer_constant_of_shape(node: Node) -> list[ValueType]:
    shape = integers(node.input(0))
    rank = vector_length(node.input(0))
    if shape is None and rank is not None:
        shape = [None] * rank
    dtype = DType.of(_fill(attribute(node, "value")).dtype)
    return [TensorType(dtype, None if shape is None else tuple(shape))]


def evaluate_constant_of_shape(node: Node) -> list[np.ndarray | None]:
    shape, fill = static_integers(node.input(0)), _fill(attribute(node, "value"))
    if shape is None or np.prod(shape, dtype=np.int64) > MAX_KNOWN or fill.is_floating_point():
        return [None]
    return [np.full(shape, int(fill.item()), dtype=object)]


def relate_constant_of_shape(node: Node) -> Relation:
    relation, y = Relation(), node.output
    for dim in range(y.rank or 0):
        if rewritable(node.input(0), dim):
            tie(relation, f"d{dim}", (y, dim))
        else:
            freeze(relation, "its size is computed when the graph runs", (y, dim))
    return relation


def shrink_constant_of_shape(node: Node, edit: Shrinkage) -> None:
    shape = integers(node.input(0)) or []
    sizes = {i: edit.size(node.output, i) for i, old in enumerate(shape) if isinstance(old, int)}
    if sizes:
        rewrite(node, 0, edit, {i: size for i, size in sizes.items() if isinstance(size, int)})


# -- EyeLike


def eye_like(x: torch.Tensor, *, dtype: int | None = None, k: int = 0) -> torch.Tensor:
    """ONNX EyeLike: ones on diagonal `k`; the dtype is that of `x` unless given."""
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    kind = x.dtype if dtype is None else DType(dtype).torch
    return (columns[None] - rows[:, None] == k).to(kind)


def given_dtype(node: Node) -> DType:
    """The element type that attribute `dtype` asks for, by default that of the first input."""
    dtype = attribute(node, "dtype")
    return input_type(node, 0).dtype if dtype is None else DType(dtype)


def infer_eye_like(node: Node) -> list[ValueType]:
    return [TensorType(given_dtype(node), input_type(node, 0).shape)]


# -- OneHot


def one_hot(indices: torch.Tensor, depth: torch.Tensor | int, values: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """ONNX OneHot: `values` holds off and on; negative indices count from `depth`, others out of range are all off."""
    count = int(scalar(depth))
    index = indices.long()
    hits = torch.where(index < 0, index + count, index).unsqueeze(-1) == torch.arange(count, device=indices.device)
    result = torch.where(hits, values[1], values[0])
    return result.movedim(-1, axis)


def infer_one_hot(node: Node) -> list[ValueType]:
    indices, values = input_type(node, 0), input_type(node, 2)
    if indices.shape is None:
        return [TensorType(values.dtype)]
    axis = normalise_axis(attribute(node, "axis"), len(indices.shape) + 1, node)
    depth = node.operand(1)
    known = integers(depth)
    size = known[0] if known else int(depth.data.item()) if depth.is_constant and depth.data is not None else None
    return [TensorType(values.dtype, (*indices.shape[:axis], size, *indices.shape[axis:]))]


def relate_one_hot(node: Node) -> Relation:
    relation, x, y = Relation(), node.operand(0), node.output
    if x.shape is None or y.shape is None:
        return relation
    axis = normalise_axis(attribute(node, "axis"), len(y.shape), node)
    for dim in range(len(x.shape)):
        tie(relation, f"d{dim}", (x, dim), (y, dim if dim < axis else dim + 1))
    freeze(relation, "its indices are values of the input", (y, axis))
    relation.positions[x] = (y, axis)
    return relation


def shrink_one_hot(node: Node, edit: Shrinkage) -> None:
    y, depth = node.output, node.operand(1)
    if y.shape is None:
        return
    axis = normalise_axis(attribute(node, "axis"), len(y.shape), node)
    kept = edit.kept(y, axis)
    if kept is not None and depth.shape is not None:
        size = [int(dim) for dim in depth.shape if isinstance(dim, int)]
        edit.set_constant(node, 1, torch.full(size, len(kept), dtype=depth.dtype.torch))


register(
    Operator("Constant", infer_constant, constant, evaluate=evaluate_constant),
    Operator(
        "ConstantOfShape", infer_constant_of_shape, constant_of_shape, relate_constant_of_shape,
        evaluate=evaluate_constant_of_shape, shrink=shrink_constant_of_shape,
    ),
    Operator("EyeLike", infer_eye_like, eye_like),
    Operator("OneHot", infer_one_hot, one_hot, relate_one_hot, shrink=shrink_one_hot),
)  # fmt: skip

__all__ = ["constant", "constant_of_shape", "eye_like", "given_dtype", "one_hot"]
