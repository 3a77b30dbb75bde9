"""Reading elements: slices, selections, gathers, masks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from graphopt.frontends.aten.builder import INT_MAX, Builder, Operand, Size, axis_of, rank_of, require, shape_of
from graphopt.frontends.aten.registry import NoConversion, converts
from graphopt.ir import DType, Shape, TensorType, Value


@converts("aten.slice.Tensor")
def slice_(
    c: Builder, self: Value, dim: int = 0, start: Size | None = None, end: Size | None = None, step: int = 1
) -> Value:
    axis = axis_of(self, dim)
    start, end = 0 if start is None else start, INT_MAX if end is None else end
    if is_whole(self, axis, start, end, step):
        return self
    return c.slice(self, axis, start, end, step)


def is_whole(x: Value, axis: int, start: Size, end: Size, step: int) -> bool:
    """Whether a slice takes everything."""
    if isinstance(start, Value) or isinstance(end, Value) or start != 0 or step != 1:
        return False
    extent = shape_of(x)[axis]
    return end >= INT_MAX or (isinstance(extent, int) and end >= extent)


@converts("aten.narrow.default")
def narrow(c: Builder, self: Value, dim: int, start: Size, length: Size) -> Value:
    return slice_(c, self, dim, start, after(c, self, dim, start, length))


def after(c: Builder, x: Value, dim: int, start: Size, length: Size) -> Size:
    """Where a piece of `length` that begins at `start` ends."""
    if isinstance(start, Value) or isinstance(length, Value):
        end = c.emit("Add", c.operand(start, DType.INT64), c.operand(length, DType.INT64))
        c.sizes.add(end)
        return end
    extent = shape_of(x)[axis_of(x, dim)]
    if start < 0 and isinstance(extent, int):
        start += extent
    return INT_MAX if start < 0 and start + length == 0 else start + length


@converts("aten.select.int")
def select(c: Builder, self: Value, dim: int, index: Size) -> Value:
    return c.emit("Gather", self, c.operand(index, DType.INT64), axis=axis_of(self, dim))


@converts("aten.index_select.default")
def index_select(c: Builder, self: Value, dim: int, index: Value) -> Value:
    positions = c.unsqueeze(index, 0) if rank_of(index) == 0 else index
    return c.emit("Gather", self, positions, axis=axis_of(self, dim))


@converts("aten.embedding.default")
def embedding(
    c: Builder, weight: Value, indices: Value, padding_idx: int = -1, scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:  # fmt: skip
    return c.emit("Gather", weight, indices, axis=0)


@converts("aten.gather.default")
def gather(c: Builder, self: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    require(rank_of(self) > 0, "gathering from a number")
    return c.emit("GatherElements", self, index, axis=axis_of(self, dim))


@converts("aten.take_along_dim.default")
def take_along_dim(c: Builder, self: Value, indices: Value, dim: int | None = None) -> Value:
    require(dim is not None, "taking from the flattened tensor")
    shapes = [d for i, d in enumerate(shape_of(self)) if i != axis_of(self, dim or 0)]
    others = [d for i, d in enumerate(shape_of(indices)) if i != axis_of(self, dim or 0)]
    require(shapes == others, "indices that broadcast")
    return gather(c, self, dim or 0, indices)


# -- indexing by tensors


@converts("aten.index.Tensor")
def index(c: Builder, self: Value, indices: Sequence[Value | None]) -> Value:
    plan = Plan(c, self, indices)
    if plan.single is not None:
        axis, positions = plan.single
        return c.emit("Gather", self, positions, axis=axis)
    moved = c.transpose(self, plan.perm)
    return plan.arrange(c.emit("GatherND", moved, plan.positions()))


class Plan:
    """How ``x[i, :, j]`` reads and writes: indexed dimensions in front, and the results' place.

    Attributes:
        axes: the indexed dimensions.
        perm: the permutation that puts them in front.
        single: the dimension and the indices when there is only one and it is not a mask.
    """

    def __init__(self, c: Builder, x: Value, indices: Sequence[Value | None]) -> None:
        self.c, self.x = c, x
        self.axes: list[int] = []
        self.indices: list[Value] = []
        self.masked = any(index is not None and index.dtype in (DType.BOOL, DType.UINT8) for index in indices)
        axis = 0
        for item in indices:
            if item is None:
                axis += 1
                continue
            width = rank_of(item) if item.dtype in (DType.BOOL, DType.UINT8) else 1
            require(width > 0, "a mask without dimensions")
            self.axes += range(axis, axis + width)
            self.indices.append(item)
            axis += width
        if self.masked and len(self.indices) > 1:
            raise NoConversion("a mask among other indices")
        rank = rank_of(x)
        self.rest = [i for i in range(rank) if i not in self.axes]
        self.perm = self.axes + self.rest
        one = len(self.indices) == 1 and not self.masked
        self.single = (self.axes[0], self.indices[0]) if one else None

    @property
    def block(self) -> Shape:
        """The joint shape of the indices."""
        if self.masked:
            return (None,)
        shapes = [shape_of(index) for index in self.indices]
        joint = []
        for extents in itertools.zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
            open_ = [d for d in extents if not (isinstance(d, int) and d == 1)]
            joint.append(open_[0] if open_ else 1)
        return tuple(reversed(joint))

    def block_sizes(self) -> list[Size]:
        """The joint shape of the indices, open extents read from the index that has them."""
        block = self.block
        sizes: list[Size] = []
        for back in range(len(block), 0, -1):
            extent = block[-back]
            if isinstance(extent, int):
                sizes.append(extent)
                continue
            require(extent is not None, "writing at an open number of positions")
            own = next(i for i in self.indices if rank_of(i) >= back and shape_of(i)[-back] == extent)
            sizes.append(self.c.size(own, -back))
        return sizes

    def positions(self) -> Value:
        """The indices as a tensor [..., number of indexed dimensions]."""
        c = self.c
        if self.masked:
            mask = c.cast(self.indices[0], DType.BOOL)
            return c.transpose(c.emit("NonZero", mask), [1, 0])
        rank = len(self.block)
        columns = []
        for item in self.indices:
            lead = c.unsqueeze(c.cast(item, DType.INT64), *range(rank - rank_of(item)))
            columns.append(lead)
        if any(shape_of(column) != self.block for column in columns):
            total = columns[0]
            for column in columns[1:]:
                total = c.emit("Add", total, column)
            target = c.emit("Shape", total)
            columns = [c.emit("Expand", column, target) for column in columns]
            for column in columns:
                column.type = TensorType(DType.INT64, self.block)
        return c.emit("Concat", *(c.unsqueeze(column, rank) for column in columns), axis=-1)

    @property
    def place(self) -> int:
        """Where the indices' dimensions stand in the result: at the first indexed one when all are neighbours."""
        neighbours = self.axes == list(range(self.axes[0], self.axes[0] + len(self.axes)))
        return self.axes[0] if neighbours else 0

    def arrange(self, picked: Value) -> Value:
        """From [indices..., rest...] to torch's order."""
        return self.c.transpose(picked, self._order())

    def unarrange(self, values: Value) -> Value:
        """From torch's order to [indices..., rest...]."""
        order = self._order()
        return self.c.transpose(values, [order.index(i) for i in range(len(order))])

    def _order(self) -> list[int]:
        width, place = len(self.block), self.place
        rest = [width + i for i in range(len(self.rest))]
        return rest[:place] + list(range(width)) + rest[place:]


@converts("aten.masked_select.default")
def masked_select(c: Builder, self: Value, mask: Value) -> Value:
    require(shape_of(self) == shape_of(mask), "a mask that broadcasts")
    return c.emit("GatherND", self, c.transpose(c.emit("NonZero", mask), [1, 0]))


@converts("aten.nonzero.default", "aten.argwhere.default")
def nonzero(c: Builder, self: Value) -> Value:
    return c.transpose(c.emit("NonZero", self), [1, 0])


@converts("aten.one_hot.default")
def one_hot(c: Builder, self: Value, num_classes: Operand = -1) -> Value:
    require(isinstance(num_classes, Value) or num_classes > 0, "as many classes as the data has")
    depth, values = c.operand(num_classes, DType.INT64), c.ints([0, 1])
    if self.rank == 0:  # ONNX's OneHot wants a vector at least
        return c.emit("Squeeze", c.emit("OneHot", c.unsqueeze(self, 0), depth, values, axis=-1), c.ints([0]))
    return c.emit("OneHot", self, depth, values, axis=-1)


@converts("aten.tril.default")
def tril(c: Builder, self: Value, diagonal: Size = 0) -> Value:
    return c.emit("Trilu", self, c.operand(diagonal, DType.INT64), upper=0)


@converts("aten.triu.default")
def triu(c: Builder, self: Value, diagonal: Size = 0) -> Value:
    return c.emit("Trilu", self, c.operand(diagonal, DType.INT64), upper=1)


@converts("aten.searchsorted.Tensor")
def searchsorted(
    c: Builder, sorted_sequence: Value, self: Value, *, right: bool = False, side: str | None = None, **options: object
) -> Value:
    require(rank_of(sorted_sequence) == 1 and options.get("sorter") is None, "searching in more than one sequence")
    return bucketize(c, self, sorted_sequence, right=right or side == "right")


@converts("aten.bucketize.Tensor")
def bucketize(c: Builder, self: Value, boundaries: Value, *, out_int32: bool = False, right: bool = False) -> Value:
    """Counts the boundaries below each element."""
    dtype = c.result_dtype(self, boundaries)
    wide = c.unsqueeze(c.cast(self, dtype), rank_of(self))
    below = c.emit("GreaterOrEqual" if right else "Greater", wide, c.cast(boundaries, dtype))
    return c.emit("ReduceSum", c.emit("Cast", below, to=int(c.result.dtype)), c.ints([-1]), keepdims=0)
