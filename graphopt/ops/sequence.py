"""Sequences and optionals: lists of values, and a value or ``None``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from graphopt.errors import DataError, ShapeError
from graphopt.ir import UNKNOWN, Dim, DType, Node, OptionalType, SequenceType, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type, normalise_axis, static_integers
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import tie
from graphopt.ops.relation import Relation, Shrinkage

#: An element of a sequence: numbers, or strings in an object array.
Item: TypeAlias = torch.Tensor | np.ndarray

_SCALAR = TensorType(DType.INT64, ())


def join(a: ValueType, b: ValueType) -> ValueType:
    """The narrowest type that values of both types have; dimensions that differ are unknown.

    Element types cannot differ: where only one is known, it is that.
    """
    if a == b:
        return a
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        inner = [kind.element if isinstance(kind, OptionalType) else kind for kind in (a, b)]
        return OptionalType(join(*inner))
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(join(a.element, b.element))
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return UNKNOWN
    known = {a.dtype, b.dtype} - {DType.UNDEFINED}
    dtype = known.pop() if len(known) == 1 else DType.UNDEFINED
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(dtype)
    return TensorType(dtype, tuple(x if D.same(x, y) else None for x, y in zip(a.shape, b.shape, strict=True)))


def element_type(node: Node, index: int = 0) -> ValueType:
    """The type of the elements of input `index`, a sequence. Raises ShapeError when it is known to be none."""
    value = node.input(index)
    kind = UNKNOWN if value is None else value.type
    if isinstance(kind, SequenceType):
        return kind.element
    if kind == UNKNOWN:
        return UNKNOWN
    raise ShapeError(f"input {index} is {kind}, not a sequence", where=node.describe())


# -- sequences


def sequence_empty(*, dtype: int = 1) -> list[Item]:
    """ONNX SequenceEmpty."""
    return []


def infer_sequence_empty(node: Node) -> list[ValueType]:
    """Type rule of SequenceEmpty: tensors of `dtype`, of any shape."""
    return [SequenceType(TensorType(DType(attribute(node, "dtype"))))]


def sequence_construct(*inputs: Item) -> list[Item]:
    """ONNX SequenceConstruct."""
    return list(inputs)


def infer_sequence_construct(node: Node) -> list[ValueType]:
    """Type rule of SequenceConstruct: the common type of the inputs."""
    kinds = [value.type for value in node.inputs if value is not None]
    element = kinds[0] if kinds else UNKNOWN
    for kind in kinds[1:]:
        element = join(element, kind)
    return [SequenceType(element)]


def _place(items: Sequence[Item], position: torch.Tensor, extra: int = 0) -> int:
    """A position as a non-negative index. Raises DataError when there is none such."""
    index, count = int(position), len(items)
    if not -count <= index < count + extra:
        raise DataError(f"position {index} is outside of a sequence of {count}")
    return index + count if index < 0 else index


def sequence_at(items: Sequence[Item], position: torch.Tensor) -> Item:
    """ONNX SequenceAt. Raises DataError for a position outside of the sequence."""
    return items[_place(items, position)]


def sequence_insert(items: Sequence[Item], item: Item, position: torch.Tensor | None = None) -> list[Item]:
    """ONNX SequenceInsert: at the end by default. Raises DataError for a position outside of the sequence."""
    index = len(items) if position is None else _place(items, position, 1)
    return [*items[:index], item, *items[index:]]


def infer_sequence_insert(node: Node) -> list[ValueType]:
    """Type rule of SequenceInsert: the common type of what is there and what comes in."""
    element, item = element_type(node), node.operand(1).type
    # A sequence made empty states no more than the element type.
    return [SequenceType(item if element == UNKNOWN else join(element, item))]


def sequence_erase(items: Sequence[Item], position: torch.Tensor | None = None) -> list[Item]:
    """ONNX SequenceErase: the last one by default. Raises DataError for a position outside of the sequence."""
    index = _place(items, torch.tensor(-1) if position is None else position)
    return [*items[:index], *items[index + 1 :]]


def sequence_length(items: Sequence[Item]) -> torch.Tensor:
    """ONNX SequenceLength."""
    return torch.tensor(len(items))


# -- tensors to sequences and back


def _cut(x: Item, begin: int, size: int, axis: int) -> Item:
    if isinstance(x, torch.Tensor):
        return x.narrow(axis, begin, size)
    return x[(slice(None),) * axis + (slice(begin, begin + size),)]


def split_to_sequence(x: Item, split: torch.Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Item]:
    """ONNX SplitToSequence: parts of `split` elements (a scalar), of the lengths in it (a vector), or slices."""
    axis %= x.ndim
    extent = x.shape[axis]
    if split is not None and split.dim():
        sizes = [int(size) for size in split.tolist()]
    else:
        step = 1 if split is None else int(split)
        sizes = [min(step, extent - begin) for begin in range(0, extent, step)]
    if sum(sizes) != extent:
        raise DataError(f"parts of {sizes} do not make up {extent} elements")
    begins = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [_cut(x, begin, size, axis) for begin, size in zip(begins, sizes, strict=True)]
    return parts if split is not None or keepdims else [part.squeeze(axis) for part in parts]


def infer_split_to_sequence(node: Node) -> list[ValueType]:
    """Type rule of SplitToSequence: the extent of a part is known where all parts have the same."""
    x = input_type(node, 0)
    if x.shape is None:
        return [SequenceType(TensorType(x.dtype))]
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    if node.input(1) is None:
        size: list[Dim] = [1] if attribute(node, "keepdims") else []
    else:
        size = [_part_extent(static_integers(node.input(1)), x.shape[axis])]
    return [SequenceType(x.with_shape((*x.shape[:axis], *size, *x.shape[axis + 1 :])))]


def _part_extent(sizes: list[int] | None, extent: Dim) -> Dim:
    if not sizes or len(set(sizes)) != 1:
        return None
    return sizes[0] if len(sizes) > 1 or (isinstance(extent, int) and extent % sizes[0] == 0) else None


def _parts(node: Node) -> list[int] | None:
    """Extents of the parts of SplitToSequence along its axis, where they are known and the axis stays."""
    shape, sizes = node.operand(0).shape, node.input(1)
    if shape is None or (sizes is None and not attribute(node, "keepdims")):
        return None
    extent = shape[normalise_axis(attribute(node, "axis"), len(shape), node)]
    given = [1] if sizes is None else static_integers(sizes)
    if not given or not isinstance(extent, int):
        return None
    if sizes is not None and sizes.rank == 1:
        return given if sum(given) == extent else None
    return [min(given[0], extent - begin) for begin in range(0, extent, given[0])] if given[0] > 0 else None


def _part_taken(node: Node) -> tuple[Node, range] | None:
    """The SplitToSequence that SequenceAt takes a part of, and the indices that are in it."""
    source, position = node.operand(0).producer, static_integers(node.input(1))
    if source is None or source.op != "SplitToSequence" or source.graph is not node.graph or not position:
        return None
    parts = _parts(source)
    if parts is None or not -len(parts) <= position[0] < len(parts):
        return None
    place = position[0] % len(parts)
    start = sum(parts[:place])
    return source, range(start, start + parts[place])


def infer_sequence_at(node: Node) -> list[ValueType]:
    """Type rule of SequenceAt: that of an element; the very part of what was split, where it is known which."""
    element, taken = element_type(node), _part_taken(node)
    if taken is None or not isinstance(element, TensorType) or element.shape is None:
        return [element]
    axis = normalise_axis(attribute(taken[0], "axis"), len(element.shape), node)
    return [element.with_shape((*element.shape[:axis], len(taken[1]), *element.shape[axis + 1 :]))]


def relate_split_to_sequence(node: Node) -> Relation | None:
    """A sequence has no dimensions: each SequenceAt relates its part to what was split."""
    readers = [use.user for use in node.output.uses]
    if not all(isinstance(user, Node) and user.op == "SequenceAt" and _part_taken(user) for user in readers):
        return None
    relation, x = Relation(), node.operand(0)
    axis = normalise_axis(attribute(node, "axis"), x.rank or 0, node)
    for dim in range(x.rank or 0):
        tie(relation, f"d{dim}", (x, dim))
    relation.axes[x, axis] = ()
    return relation


def relate_sequence_at(node: Node) -> Relation | None:
    """The part is a selection of what was split, where it is known which."""
    taken = _part_taken(node)
    if taken is None:
        return None
    source, index = taken
    relation, x, y = Relation(), source.operand(0), node.output
    axis = normalise_axis(attribute(source, "axis"), x.rank or 0, source)
    for dim in range(x.rank or 0):
        if dim != axis:
            tie(relation, f"d{dim}", (x, dim), (y, dim))
    relation.select((y, axis), (x, axis), index)
    return relation


def shrink_split_to_sequence(node: Node, edit: Shrinkage) -> None:
    """States the new extents of the parts."""
    x, parts = node.operand(0), _parts(node)
    kept = None if x.rank is None else edit.kept(x, normalise_axis(attribute(node, "axis"), x.rank, node))
    if kept is None or parts is None:
        return
    bounds = torch.tensor([0, *np.cumsum(parts)])
    node.set_inputs([x, node.input(1)])
    edit.set_constant(node, 1, torch.searchsorted(kept, bounds).diff())


def concat_from_sequence(items: Sequence[Item], *, axis: int, new_axis: int = 0) -> Item:
    """ONNX ConcatFromSequence: joined along `axis`, or stacked along a new one."""
    tensors = [item for item in items if isinstance(item, torch.Tensor)]
    if len(tensors) == len(items):
        return torch.stack(tensors, axis) if new_axis else torch.cat(tensors, axis)
    arrays = [np.asarray(item) for item in items]
    return np.stack(arrays, axis) if new_axis else np.concatenate(arrays, axis)


def infer_concat_from_sequence(node: Node) -> list[ValueType]:
    """Type rule of ConcatFromSequence: the extent of the joined axis is not known."""
    element = element_type(node)
    if not isinstance(element, TensorType) or element.shape is None:
        return [TensorType(element.dtype if isinstance(element, TensorType) else DType.UNDEFINED)]
    shape: list[Dim] = list(element.shape)
    rank = len(shape) + bool(attribute(node, "new_axis"))
    axis = normalise_axis(attribute(node, "axis"), rank, node)
    if attribute(node, "new_axis"):
        shape.insert(axis, None)
    else:
        shape[axis] = None
    return [element.with_shape(shape)]


# -- optionals


def optional(value: Any = None, *, type: ValueType | None = None) -> Any:
    """ONNX Optional: the value itself; ``None`` is the empty one."""
    return value


def infer_optional(node: Node) -> list[ValueType]:
    """Type rule of Optional: of the input's type, or of the type that the attribute states."""
    value, stated = node.input(0), attribute(node, "type")
    return [OptionalType(value.type if value is not None else stated or UNKNOWN)]


def optional_has_element(value: Any = None) -> torch.Tensor:
    """ONNX OptionalHasElement: false for an empty optional and where there is no input."""
    return torch.tensor(value is not None)


def optional_get_element(value: Any) -> Any:
    """ONNX OptionalGetElement. Raises DataError for an empty optional."""
    if value is None:
        raise DataError("the optional is empty", hint="ask OptionalHasElement first")
    return value


def infer_optional_get_element(node: Node) -> list[ValueType]:
    """Type rule of OptionalGetElement."""
    kind = node.operand(0).type
    return [kind.element if isinstance(kind, OptionalType) else kind]


def _same_sequence(node: Node) -> list[ValueType]:
    element_type(node)
    return [node.operand(0).type]


def _scalar(node: Node) -> list[ValueType]:
    element_type(node)
    return [_SCALAR]


register(
    Operator("SequenceEmpty", infer_sequence_empty, sequence_empty),
    Operator("SequenceConstruct", infer_sequence_construct, sequence_construct),
    Operator("SequenceAt", infer_sequence_at, sequence_at, relate_sequence_at),
    Operator("SequenceInsert", infer_sequence_insert, sequence_insert),
    Operator("SequenceErase", _same_sequence, sequence_erase),
    Operator("SequenceLength", _scalar, sequence_length),
    Operator(
        "SplitToSequence",
        infer_split_to_sequence,
        split_to_sequence,
        relate_split_to_sequence,
        shrink=shrink_split_to_sequence,
    ),
    Operator("ConcatFromSequence", infer_concat_from_sequence, concat_from_sequence),
    Operator("Optional", infer_optional, optional),
    Operator("OptionalHasElement", lambda node: [TensorType(DType.BOOL, ())], optional_has_element),
    Operator("OptionalGetElement", infer_optional_get_element, optional_get_element),
)

__all__ = ["Item", "element_type", "join"]
