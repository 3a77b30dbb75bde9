"""Writing elements: what in-place indexing becomes."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.frontends.aten.builder import (
    INT_MAX,
    Builder,
    Operand,
    Size,
    axis_of,
    plain,
    rank_of,
    require,
    shape_of,
    static,
)
from graphopt.frontends.aten.indexing import Plan, after, is_whole
from graphopt.frontends.aten.registry import NoConversion, converts
from graphopt.ir import DType, Value
from graphopt.ir import dims as D

_REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


@converts("aten.slice_scatter.default")
def slice_scatter(
    c: Builder,
    self: Value,
    src: Value,
    dim: int = 0,
    start: Size | None = None,
    end: Size | None = None,
    step: int = 1,
) -> Value:
    axis = axis_of(self, dim)
    start, end = 0 if start is None else start, INT_MAX if end is None else end
    source = c.cast(src, self.dtype)
    if is_whole(self, axis, start, end, step):
        return source
    if step == 1:
        return _replace_run(c, self, source, axis, start, end)
    extent = static(shape_of(self)[axis])
    rows = range(extent)[int(plain(start)) : int(plain(end)) : step]
    return _replace_rows(c, self, source, axis, rows)


def _replace_run(c: Builder, x: Value, part: Value, axis: int, start: Size, end: Size) -> Value:
    pieces = [part]
    if isinstance(start, Value) or start != 0:
        pieces.insert(0, c.slice(x, axis, 0, start))
    extent = shape_of(x)[axis]
    if isinstance(end, Value) or not (end >= INT_MAX or (isinstance(extent, int) and end >= extent)):
        pieces.append(c.slice(x, axis, end, INT_MAX))
    return c.emit("Concat", *pieces, axis=axis) if len(pieces) > 1 else part


def _replace_rows(c: Builder, x: Value, part: Value, axis: int, rows: Sequence[int]) -> Value:
    perm = [axis, *(i for i in range(rank_of(x)) if i != axis)]
    inverse = [perm.index(i) for i in range(len(perm))]
    positions = c.unsqueeze(c.ints(rows), 1)
    written = c.emit("ScatterND", c.transpose(x, perm), positions, c.transpose(part, perm))
    return c.transpose(written, inverse)


@converts("graphopt.narrow_scatter")
def narrow_scatter(c: Builder, self: Value, src: Value, dim: int, start: Size, length: Size) -> Value:
    """The inverse of narrow."""
    return slice_scatter(c, self, src, dim, start, after(c, self, dim, start, length))


@converts("aten.select_scatter.default")
def select_scatter(c: Builder, self: Value, src: Value, dim: int, index: Size) -> Value:
    axis = axis_of(self, dim)
    row = c.unsqueeze(c.cast(src, self.dtype), axis)
    if isinstance(index, Value):
        return slice_scatter(c, self, row, axis, index, after(c, self, axis, index, 1))
    extent = shape_of(self)[axis]
    if index < 0 and isinstance(extent, int):
        index += extent
    return slice_scatter(c, self, row, axis, index, INT_MAX if index == -1 else index + 1)


@converts("aten.copy.default")
def copy(c: Builder, self: Value, src: Value, non_blocking: bool = False) -> Value:
    source = c.cast(src, self.dtype)
    a, b = shape_of(self), shape_of(source)
    if len(a) == len(b) and all(map(D.same, a, b)):
        return source
    return c.emit("Expand", source, c.shape(self))


# -- by elements


@converts("aten.scatter.src", "aten.scatter.value")
def scatter(c: Builder, self: Value, dim: int, index: Value, src: Operand) -> Value:
    return _scatter(c, self, dim, index, src, "none")


@converts("aten.scatter.reduce", "aten.scatter.value_reduce")
def scatter_with(c: Builder, self: Value, dim: int, index: Value, src: Operand, *, reduce: str) -> Value:
    return _scatter(c, self, dim, index, src, _REDUCTIONS[reduce])


@converts("aten.scatter_add.default")
def scatter_add(c: Builder, self: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(c, self, dim, index, src, "add")


@converts("aten.scatter_reduce.two")
def scatter_reduce(
    c: Builder, self: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True
) -> Value:
    require(include_self and reduce in _REDUCTIONS, f"scattering with '{reduce}'")
    return _scatter(c, self, dim, index, src, _REDUCTIONS[reduce])


def _scatter(c: Builder, x: Value, dim: int, index: Value, src: Operand, reduction: str) -> Value:
    require(rank_of(x) > 0 and rank_of(index) > 0, "scattering into a number")
    updates = c.operand(src, x.dtype)
    if rank_of(updates) == 0:
        updates = c.emit("Expand", updates, c.shape(index))
    elif shape_of(updates) != shape_of(index):
        # torch reads the leading part of a larger source.
        rank = rank_of(index)
        updates = c.emit("Slice", updates, c.ints([0] * rank), c.shape(index), c.ints(range(rank)))
    attributes = {} if reduction == "none" else {"reduction": reduction}
    return c.emit("ScatterElements", x, index, updates, axis=axis_of(x, dim), **attributes)


# -- by rows and positions


@converts("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(
    c: Builder, self: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    plan = Plan(c, self, indices)
    updates = c.cast(values, self.dtype)
    if plan.masked and not accumulate:
        require(rank_of(updates) == 0 or all(d == 1 for d in shape_of(updates)), "as many values as the mask has")
        number = updates if rank_of(updates) == 0 else c.emit("Reshape", updates, c.ints([]))
        mask = c.cast(plan.indices[0], DType.BOOL)
        behind = rank_of(self) - plan.axes[-1] - 1
        return c.emit("Where", c.unsqueeze(mask, *range(rank_of(mask), rank_of(mask) + behind)), number, self)
    if plan.masked:
        raise NoConversion("adding under a mask")
    attributes = {"reduction": "add"} if accumulate else {}
    positions = plan.positions()
    moved = c.transpose(self, plan.perm)
    written = c.emit("ScatterND", moved, positions, _updates(c, plan, updates), **attributes)
    written.type = moved.type
    return c.transpose(written, [plan.perm.index(i) for i in range(len(plan.perm))])


def _updates(c: Builder, plan: Plan, values: Value) -> Value:
    """The values, broadcast to the part that is written."""
    rest = [c.size(plan.x, axis) for axis in plan.rest]
    place = plan.place
    sizes = rest[:place] + plan.block_sizes() + rest[place:]
    wanted = tuple(size if isinstance(size, int) else None for size in sizes)
    wide = values if shape_of(values) == wanted else c.expand(values, sizes)
    return plan.unarrange(wide)


@converts("aten.index_copy.default")
def index_copy(c: Builder, self: Value, dim: int, index: Value, source: Value) -> Value:
    return index_put(c, self, [*[None] * axis_of(self, dim), index], source)


@converts("aten.index_add.default")
def index_add(c: Builder, self: Value, dim: int, index: Value, source: Value, *, alpha: Operand = 1) -> Value:
    require(not isinstance(alpha, Value) and alpha == 1, "adding rows with a factor")
    return index_put(c, self, [*[None] * axis_of(self, dim), index], source, accumulate=True)


@converts("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def index_fill(c: Builder, self: Value, dim: int, index: Value, value: Operand) -> Value:
    return index_put(c, self, [*[None] * axis_of(self, dim), index], c.operand(value, self.dtype))
