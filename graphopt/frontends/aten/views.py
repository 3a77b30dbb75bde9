"""Operators that only rearrange: reshapes, permutations, expansions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.frontends.aten.builder import Builder, Size, axis_of, rank_of, require, shape_of, static
from graphopt.frontends.aten.registry import converts
from graphopt.ir import Value
from graphopt.ir import dims as D


@converts("aten.contiguous.default", "aten.clone.default", "aten.detach.default", "aten.detach_.default",
          "aten.alias.default", "aten.lift_fresh_copy.default", "aten.lift_fresh.default", "aten.lift.default",
          "aten.requires_grad_.default", "aten.resolve_conj.default", "aten.resolve_neg.default",
          "aten.detach_copy.default", "aten.alias_copy.default")  # fmt: skip
def same(c: Builder, self: Value, *options: Any, **named: Any) -> Value:
    return self


# -- reshapes


@converts("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.view_copy.default")
def view(c: Builder, self: Value, size: Sequence[Size]) -> Value:
    target = list(c.result_shape)
    # Tracing may not have simplified an extent that the call states as a number.
    fixed = [s if isinstance(s, int) and s >= 0 else t for s, t in zip(size, target, strict=True)]
    return c.reshape_to(self, size, tuple(fixed))


@converts("aten.view_as.default", "aten.reshape_as.default")
def view_as(c: Builder, self: Value, other: Value) -> Value:
    return c.reshape_to(self, [c.size(other, i) for i in range(rank_of(other))], c.result_shape)


@converts("aten.flatten.using_ints")
def flatten(c: Builder, self: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    rank = rank_of(self)
    if rank == 0:
        return c.unsqueeze(self, 0)
    start, end = start_dim % rank, end_dim % rank
    if start == end:
        return self
    if start == 1 and end == rank - 1:
        return c.emit("Flatten", self, axis=1)
    merged: list[Size] = [-1]
    sizes = [c.size(self, i) for i in range(start)] + merged + [c.size(self, i) for i in range(end + 1, rank)]
    return c.reshape_to(self, sizes, c.result_shape)


@converts("aten.ravel.default")
def ravel(c: Builder, self: Value) -> Value:
    return self if rank_of(self) == 1 else c.emit("Reshape", self, c.ints([-1]))


@converts("aten.unflatten.int")
def unflatten(c: Builder, self: Value, dim: int, sizes: Sequence[Size]) -> Value:
    axis = axis_of(self, dim)
    final = [c.size(self, i) for i in range(axis)] + list(sizes)
    final += [c.size(self, i) for i in range(axis + 1, rank_of(self))]
    return c.reshape_to(self, final, c.result_shape)


@converts("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims")
def squeeze(c: Builder, self: Value, dim: int | Sequence[int] | None = None) -> Value:
    shape = shape_of(self)
    dims = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = sorted({d % len(shape) for d in dims}) if shape else []
    gone = [axis for axis in axes if isinstance(shape[axis], int) and shape[axis] == 1]
    return c.squeeze(self, *gone)


@converts("aten.unsqueeze.default")
def unsqueeze(c: Builder, self: Value, dim: int) -> Value:
    return c.unsqueeze(self, dim % (rank_of(self) + 1))


@converts("aten.atleast_1d.default")
def atleast_1d(c: Builder, self: Value) -> Value:
    return self if rank_of(self) else c.unsqueeze(self, 0)


# -- permutations


@converts("aten.permute.default")
def permute(c: Builder, self: Value, dims: Sequence[int]) -> Value:
    return c.transpose(self, [dim % max(rank_of(self), 1) for dim in dims])


@converts("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default")
def transpose(c: Builder, self: Value, dim0: int, dim1: int) -> Value:
    perm = list(range(rank_of(self)))
    a, b = axis_of(self, dim0), axis_of(self, dim1)
    if perm:
        perm[a], perm[b] = perm[b], perm[a]
    return c.transpose(self, perm)


@converts("aten.t.default", "aten.mT.default", "aten.adjoint.default", "aten.matrix_H.default")
def swap_last(c: Builder, self: Value) -> Value:
    return self if rank_of(self) < 2 else transpose(c, self, -2, -1)


@converts("aten.numpy_T.default")
def reverse_dims(c: Builder, self: Value) -> Value:
    return c.transpose(self, list(reversed(range(rank_of(self)))))


@converts("aten.movedim.int", "aten.movedim.intlist", "aten.moveaxis.int", "aten.moveaxis.intlist")
def movedim(c: Builder, self: Value, source: Any, destination: Any) -> Value:
    rank = rank_of(self)
    sources = [d % rank for d in ([source] if isinstance(source, int) else source)]
    targets = [d % rank for d in ([destination] if isinstance(destination, int) else destination)]
    rest = iter(d for d in range(rank) if d not in sources)
    moved = dict(zip(targets, sources, strict=True))
    return c.transpose(self, [moved[i] if i in moved else next(rest) for i in range(rank)])


@converts("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def channel_shuffle(c: Builder, self: Value, groups: int) -> Value:
    shape = shape_of(self)
    channels = static(shape[1])
    sizes = [c.size(self, i) for i in range(len(shape))]
    split = c.reshape_to(
        self, [sizes[0], groups, channels // groups, *sizes[2:]], (shape[0], groups, channels // groups, *shape[2:])
    )
    shuffled = c.transpose(split, [0, 2, 1, *range(3, len(shape) + 1)])
    shuffled.type = self.tensor_type.with_shape((shape[0], channels // groups, groups, *shape[2:]))
    return c.reshape_to(shuffled, sizes, shape)


@converts("aten.pixel_shuffle.default")
def pixel_shuffle(c: Builder, self: Value, upscale_factor: int) -> Value:
    require(rank_of(self) == 4, "a pixel shuffle of other than four dimensions")
    return c.emit("DepthToSpace", self, blocksize=upscale_factor, mode="CRD")


@converts("aten.pixel_unshuffle.default")
def pixel_unshuffle(c: Builder, self: Value, downscale_factor: int) -> Value:
    """SpaceToDepth puts the block in front of the channels, torch behind."""
    require(rank_of(self) == 4, "a pixel unshuffle of other than four dimensions")
    shape, r = shape_of(self), downscale_factor
    channels = static(shape[1])
    y = c.emit("SpaceToDepth", self, blocksize=r)
    batch, _, height, width = c.result_shape
    y.type = c.result
    split = c.reshape_to(
        y, [c.size(y, 0), r * r, channels, c.size(y, 2), c.size(y, 3)], (batch, r * r, channels, height, width)
    )
    swapped = c.transpose(split, [0, 2, 1, 3, 4])
    swapped.type = c.result.with_shape((batch, channels, r * r, height, width))
    return c.reshape_to(swapped, [c.size(y, 0), channels * r * r, c.size(y, 2), c.size(y, 3)], c.result_shape)


# -- expansions


@converts("aten.expand.default", "aten.broadcast_to.default")
def expand(c: Builder, self: Value, size: Sequence[Size], *, implicit: bool = False) -> Value:
    source, target = shape_of(self), c.result_shape
    lead = len(target) - len(source)
    kept = [i >= lead and D.same(source[i - lead], target[i]) for i in range(len(target))]
    if lead == 0 and all(kept):
        return self
    return c.expand(self, [1 if keep else s for keep, s in zip(kept, size, strict=True)])


@converts("aten.expand_as.default")
def expand_as(c: Builder, self: Value, other: Value) -> Value:
    source, target = shape_of(self), shape_of(other)
    if len(source) == len(target) and all(map(D.same, source, target)):
        return self
    return c.emit("Expand", self, c.shape(other))


@converts("aten.broadcast_tensors.default")
def broadcast_tensors(c: Builder, tensors: Sequence[Value]) -> tuple[Value, ...]:
    results = []
    for tensor, kind in zip(tensors, c.results, strict=True):
        target = kind.shape if kind is not None else None
        require(target is not None and D.is_static(target), "broadcasting to an open shape")
        sizes = [static(d) for d in target or ()]
        results.append(tensor if tensor.shape == target else c.expand(tensor, sizes))
    return tuple(results)


@converts("aten.repeat.default", "aten.tile.default")
def repeat(c: Builder, self: Value, repeats: Sequence[Size]) -> Value:
    rank = rank_of(self)
    times: list[Size] = [*[1] * (rank - len(repeats)), *repeats]
    lead = len(times) - rank
    x = c.unsqueeze(self, *range(lead))
    if all(not isinstance(t, Value) and t == 1 for t in times):
        return x
    return c.emit("Tile", x, c.vector(times))


@converts("aten.repeat_interleave.self_int")
def repeat_interleave(
    c: Builder, self: Value, repeats: Size, dim: int | None = None, *, output_size: Any = None
) -> Value:
    x = ravel(c, self) if dim is None else self
    if dim is None:
        x.type = self.tensor_type.with_shape((self.tensor_type.numel,))
    axis = axis_of(x, 0 if dim is None else dim)
    rank = rank_of(x)
    wide = c.expand(c.unsqueeze(x, axis + 1), [1] * (axis + 1) + [repeats] + [1] * (rank - axis - 1))
    sizes = [c.size(x, i) if i != axis else -1 for i in range(rank)]
    shape = [d for i, d in enumerate(shape_of(x)) if i <= axis] + [None] + list(shape_of(x)[axis + 1 :])
    wide.type = x.tensor_type.with_shape(shape)
    return c.reshape_to(wide, sizes, c.result_shape)


@converts("aten.unfold.default")
def unfold(c: Builder, self: Value, dimension: int, size: int, step: int) -> Value:
    """Windows along one dimension, the positions inside a window last."""
    axis = axis_of(self, dimension)
    extent = static(shape_of(self)[axis])
    starts = range(0, extent - size + 1, step)
    if size == step and extent % size == 0:
        sizes = [c.size(self, i) for i in range(rank_of(self))]
        split = c.emit("Reshape", self, c.vector([*sizes[:axis], len(starts), size, *sizes[axis + 1 :]]))
        order = [i for i in range(rank_of(self) + 1) if i != axis + 1] + [axis + 1]
        return c.transpose(split, order)
    pieces = [c.unsqueeze(c.slice(self, axis, start, start + size), axis) for start in starts]
    require(len(pieces) <= 64, "very many windows")
    windows = c.emit("Concat", *pieces, axis=axis)
    return c.transpose(windows, [i for i in range(rank_of(self) + 1) if i != axis + 1] + [axis + 1])


@converts("aten.diagonal.default")
def diagonal(c: Builder, self: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """Gathers from the two dimensions, flattened."""
    rank, a, b = rank_of(self), axis_of(self, dim1), axis_of(self, dim2)
    rows, columns = static(shape_of(self)[a]), static(shape_of(self)[b])
    rest = [i for i in range(rank) if i not in (a, b)]
    moved = c.transpose(self, [*rest, a, b])
    flat = c.emit("Reshape", moved, c.vector([*(c.size(self, i) for i in rest), rows * columns]))
    row, column = max(-offset, 0), max(offset, 0)
    count = max(min(rows - row, columns - column), 0)
    positions = [(row + i) * columns + column + i for i in range(count)]
    return c.emit("Gather", flat, c.ints(positions), axis=len(rest))
