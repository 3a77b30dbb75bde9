"""What the type rules of the operator families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.errors import ShapeError
from graphopt.ir import UNKNOWN, Dim, DType, Node, Shape, TensorType, Value, ValueType
from graphopt.ir import dims as D

# Contents are tracked for tensors up to this many elements: shapes, axes, sizes - not data.
MAX_KNOWN = 1024


def input_type(node: Node, index: int) -> TensorType:
    """The tensor type of input `index`; an unknown one when the input is left out or is no tensor."""
    value = node.input(index)
    return UNKNOWN if value is None else value.tensor_type


def contents(value: Value | None) -> np.ndarray | None:
    """The elements of a small integer (or bool) tensor as an object array of `Dim`; ``None`` when nothing is known.

    Elements that are not known are ``None`` inside the array.
    """
    if value is None:
        return None
    if value.known is not None:
        return value.known
    data = value.data
    if not value.is_constant or data is None or data.numel() > MAX_KNOWN or data.is_floating_point():
        return None
    if data.is_complex() or data.is_meta:
        return None
    return np.array(data.cpu().numpy().astype(object), dtype=object)


def integers(value: Value | None) -> list[Dim] | None:
    """`contents` of a vector (or scalar) as a flat list."""
    known = contents(value)
    return None if known is None else [D.normalise(d) for d in known.flat]


def static_integers(value: Value | None) -> list[int] | None:
    """`integers`, when every one of them is a known number."""
    known = integers(value)
    if known is None or not all(isinstance(d, int) for d in known):
        return None
    return [d for d in known if isinstance(d, int)]


def normalise_axis(axis: int, rank: int, node: Node) -> int:
    """A non-negative axis. Raises ShapeError when it is out of range."""
    if not -rank <= axis < max(rank, 1):
        raise ShapeError(f"axis {axis} is out of range for rank {rank}", where=node.describe())
    return axis + rank if axis < 0 else axis


def broadcast(node: Node, *shapes: Shape | None) -> Shape | None:
    """The shape that numpy broadcasting gives; unknown dimensions stay unknown. Raises ShapeError on a clash."""
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    if known and known.count(known[0]) == len(known):
        return known[0]
    rank = max((len(shape) for shape in known), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(_broadcast_dim(node, dims) for dims in zip(*padded, strict=True))


def _broadcast_dim(node: Node, dims: Sequence[Dim]) -> Dim:
    numbers = {d for d in dims if isinstance(d, int) and d != 1}
    if len(numbers) > 1:
        raise ShapeError(f"dimensions {sorted(numbers)} do not broadcast", where=node.describe())
    if numbers:
        return numbers.pop()
    others = [d for d in dims if not isinstance(d, int)]
    if not others:
        return 1
    if len(others) == 1:
        return others[0]
    return next((d for d in others if all(D.same(d, other) or _at_most(other, d) for other in others)), None)


def _at_most(small: Dim, large: Dim) -> bool:
    """True for ``Min(large, ...)``: where that broadcasts with `large`, it equals it or is one."""
    if small is None or large is None or isinstance(small, int) or isinstance(large, int):
        return False
    return small.func.__name__ == "Min" and large in small.args


def same_as(index: int, outputs: int = 1) -> Callable[[Node], list[ValueType]]:
    """Rule: every output has the type of input `index`."""

    def infer(node: Node) -> list[ValueType]:
        value = node.input(index)
        return [UNKNOWN if value is None else value.type] * max(outputs, len(node.outputs))

    return infer


def elementwise(dtype: DType | None = None, source: int = 0) -> Callable[[Node], list[ValueType]]:
    """Rule: the inputs broadcast; the element type is `dtype`, or that of input `source`."""

    def infer(node: Node) -> list[ValueType]:
        shape = broadcast(node, *(v.tensor_type.shape for v in node.inputs if v is not None))
        return [TensorType(dtype or input_type(node, source).dtype, shape)]

    return infer


def object_array(values: Any, shape: Sequence[int] | None = None) -> np.ndarray:
    """An object array of `Dim` from a nested list or flat list plus shape; sympy objects stay whole."""
    flat = np.empty(len(values), dtype=object)
    flat[:] = [D.normalise(v) for v in values]
    return flat if shape is None else flat.reshape(tuple(shape))
