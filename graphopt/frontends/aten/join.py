"""Joining and splitting, padding, rolling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.frontends.aten.builder import (
    INT_MAX,
    INT_MIN,
    Builder,
    Operand,
    Size,
    axis_of,
    plain,
    rank_of,
    require,
    shape_of,
)
from graphopt.frontends.aten.registry import NoConversion, converts
from graphopt.ir import DType, Value


@converts("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def cat(c: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    rank = len(c.result_shape)
    # torch ignores empty vectors among tensors of higher rank.
    parts = [c.cast(t, c.result.dtype) for t in tensors if not (rank != 1 and shape_of(t) == (0,))]
    return parts[0] if len(parts) == 1 else c.emit("Concat", *parts, axis=dim % rank)


@converts("aten.stack.default")
def stack(c: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    axis = dim % len(c.result_shape)
    return c.emit("Concat", *(c.unsqueeze(c.cast(t, c.result.dtype), axis) for t in tensors), axis=axis)


@converts("aten.hstack.default")
def hstack(c: Builder, tensors: Sequence[Value]) -> Value:
    return cat(c, [t if rank_of(t) else c.unsqueeze(t, 0) for t in tensors], 0 if len(c.result_shape) == 1 else 1)


@converts("aten.vstack.default")
def vstack(c: Builder, tensors: Sequence[Value]) -> Value:
    require(all(rank_of(t) for t in tensors), "stacking numbers")
    return cat(c, [c.unsqueeze(t, 0) if rank_of(t) == 1 else t for t in tensors], 0)


@converts("aten.meshgrid.default", "aten.meshgrid.indexing")
def meshgrid(c: Builder, tensors: Sequence[Value], *, indexing: str = "ij") -> tuple[Value, ...]:
    count = len(tensors)
    results = []
    sizes = [c.size(t, 0) if rank_of(t) else 1 for t in tensors]
    places = list(range(count))
    if indexing == "xy" and count > 1:
        places[0], places[1] = 1, 0
        sizes[0], sizes[1] = sizes[1], sizes[0]
    for place, tensor in zip(places, tensors, strict=True):
        vector = tensor if rank_of(tensor) else c.unsqueeze(tensor, 0)
        column = c.unsqueeze(vector, *(i for i in range(count) if i != place))
        results.append(c.expand(column, [1 if i == place else size for i, size in enumerate(sizes)]))
    return tuple(results)


# -- splitting


def _fixed_pieces(c: Builder, x: Value, axis: int) -> tuple[Value, ...] | None:
    """The pieces whose extents tracing found, or ``None`` when one of them is open."""
    extents = [kind.shape[axis] if kind is not None and kind.shape is not None else None for kind in c.results]
    if len(extents) == 1:
        return (x,)
    if any(not isinstance(extent, int) for extent in extents):
        return None
    sizes = c.ints(extent for extent in extents if isinstance(extent, int))
    return tuple(c.emit_many("Split", [x, sizes], len(extents), axis=axis))


@converts("aten.split.Tensor", "aten.unsafe_split.Tensor")
def split(c: Builder, self: Value, split_size: Size, dim: int = 0) -> tuple[Value, ...]:
    axis = axis_of(self, dim)
    pieces = _fixed_pieces(c, self, axis)
    if pieces is not None:
        return pieces
    step, last = int(plain(split_size)), len(c.results) - 1
    ends = [INT_MAX if i == last else (i + 1) * step for i in range(last + 1)]
    return tuple(c.slice(self, axis, i * step, end) for i, end in enumerate(ends))


@converts("aten.chunk.default", "aten.unsafe_chunk.default")
def chunk(c: Builder, self: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    axis, count = axis_of(self, dim), len(c.results)
    pieces = _fixed_pieces(c, self, axis)
    return pieces or tuple(c.emit_many("Split", [self], count, axis=axis, num_outputs=count))


@converts("aten.split_with_sizes.default", "aten.split.sizes", "aten.unsafe_split_with_sizes.default")
def split_with_sizes(c: Builder, self: Value, split_sizes: Sequence[Size], dim: int = 0) -> tuple[Value, ...]:
    if len(split_sizes) == 1:
        return (self,)
    return tuple(c.emit_many("Split", [self, c.vector(split_sizes)], len(split_sizes), axis=axis_of(self, dim)))


@converts("aten.tensor_split.sections", "aten.tensor_split.indices")
def tensor_split(c: Builder, self: Value, cuts: Any, dim: int = 0) -> tuple[Value, ...]:
    pieces = _fixed_pieces(c, self, axis_of(self, dim))
    if pieces is None:
        raise NoConversion("equal pieces of an open extent")
    return pieces


@converts("aten.unbind.int")
def unbind(c: Builder, self: Value, dim: int = 0) -> tuple[Value, ...]:
    axis = axis_of(self, dim)
    return tuple(c.emit("Gather", self, c.scalar(i, DType.INT64), axis=axis) for i in range(len(c.results)))


# -- padding

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@converts("aten.pad.default")
def pad(c: Builder, self: Value, pad: Sequence[Size], mode: str = "constant", value: Operand | None = None) -> Value:
    """Torch lists (begin, end) from the last dimension; ONNX all begins, then all ends."""
    rank = rank_of(self)
    if all(not isinstance(p, Value) and p == 0 for p in pad):
        return self
    begins: list[Size] = [0] * rank
    ends: list[Size] = [0] * rank
    for i in range(len(pad) // 2):
        begins[rank - 1 - i], ends[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    if mode != "constant":
        return c.emit("Pad", self, c.vector(begins + ends), mode=_MODES[mode])
    return c.emit("Pad", self, c.vector(begins + ends), c.operand(value or 0, self.dtype), mode="constant")


@converts("aten.constant_pad_nd.default")
def constant_pad(c: Builder, self: Value, widths: Sequence[Size], value: Operand = 0) -> Value:
    return pad(c, self, widths, "constant", value)


@converts(*(f"aten.reflection_pad{rank}d.default" for rank in (1, 2, 3)))
def reflection_pad(c: Builder, self: Value, padding: Sequence[Size]) -> Value:
    return pad(c, self, padding, "reflect")


@converts(*(f"aten.replication_pad{rank}d.default" for rank in (1, 2, 3)))
def replication_pad(c: Builder, self: Value, padding: Sequence[Size]) -> Value:
    return pad(c, self, padding, "replicate")


# -- rolling and flipping


@converts("aten.roll.default")
def roll(c: Builder, self: Value, shifts: Any, dims: Any = ()) -> Value:
    amounts = [shifts] if isinstance(shifts, int) else list(shifts)
    axes = [dims] if isinstance(dims, int) else list(dims)
    if any(isinstance(amount, Value) for amount in amounts):
        raise NoConversion("a roll by an amount that depends on the input")
    x = self
    if not axes:
        x, axes = c.emit("Reshape", self, c.ints([-1])), [0]
        x.type = self.tensor_type.with_shape((self.tensor_type.numel,))
    for amount, dim in zip(amounts, axes, strict=True):
        x = _roll_one(c, x, amount, axis_of(x, dim))
    if dims in ((), []):
        return c.emit("Reshape", x, c.shape(self))
    return x


def _roll_one(c: Builder, x: Value, amount: int, axis: int) -> Value:
    extent = shape_of(x)[axis]
    if isinstance(extent, int) and extent:
        amount %= extent
    if amount == 0:
        return x
    tail, head = c.slice(x, axis, -amount, INT_MAX), c.slice(x, axis, 0, -amount)
    rolled = c.emit("Concat", tail, head, axis=axis)
    rolled.type = x.type
    return rolled


@converts("aten.flip.default")
def flip(c: Builder, self: Value, dims: Sequence[int]) -> Value:
    axes = sorted({axis_of(self, dim) for dim in dims})
    if not axes:
        return self
    count = len(axes)
    starts, ends, steps = c.ints([-1] * count), c.ints([INT_MIN] * count), c.ints([-1] * count)
    return c.emit("Slice", self, starts, ends, c.ints(axes), steps)


@converts("aten.fliplr.default")
def fliplr(c: Builder, self: Value) -> Value:
    return flip(c, self, [1])


@converts("aten.flipud.default")
def flipud(c: Builder, self: Value) -> Value:
    return flip(c, self, [0])
