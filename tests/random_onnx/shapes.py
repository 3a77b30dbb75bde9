"""Operators that move elements, and arithmetic with shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.ir import DType, Value
from tests.random_onnx.elementwise import broadcast
from tests.random_onnx.grower import Grower, Item, Made, Rejected, maker


def _some(g: Grower, rank: int = 0) -> Item:
    """A value of any type; a float32 most of the time."""
    if g.chance(0.75):
        return g.pick(lambda item: item.dtype is DType.FLOAT32 and item.rank >= rank)
    return g.pick(lambda item: item.rank >= rank)


@maker(2)
def transpose(g: Grower) -> Made:
    x = _some(g)
    if g.chance(0.1):
        return g.b.Transpose(x.value)
    return g.b.Transpose(x.value, perm=g.rng.sample(range(x.rank), x.rank) or None)


@maker(2)
def reshape(g: Grower) -> Made:
    """To numbers, among them 0 (as it was) and -1 (the rest)."""
    x = _some(g, rank=1)
    opened = [axis for axis in range(x.rank) if not x.fixed(axis)]
    inner = [x.fixed(axis) for axis in range(x.rank)]
    kind = g.rng.choice(["flat", "keep", "split", "merge", "flatten"])
    if kind == "flat":
        return g.b.Reshape(x.value, g.ints([-1]))
    if kind == "flatten":
        return g.b.Flatten(x.value, axis=g.rng.choice([None, *range(-x.rank, x.rank + 1)]))
    if len(opened) > 1:
        raise Rejected
    if kind == "keep":
        shape = [0 if g.chance(0.3) else extent or -1 for extent in inner]
    elif kind == "split":
        places = [axis for axis in range(x.rank) if inner[axis] > 1]
        if not places:
            raise Rejected
        place = g.rng.choice(places)
        factor = g.rng.choice([d for d in range(1, inner[place] + 1) if inner[place] % d == 0])
        shape = [extent or -1 for extent in inner]
        shape[place : place + 1] = [factor, inner[place] // factor]
    else:
        pairs = list(range(x.rank - 1))
        if not pairs:
            raise Rejected
        place = g.rng.choice(pairs)
        merged = inner[place] * inner[place + 1] or -1
        shape = [extent or -1 for extent in inner]
        shape[place : place + 2] = [merged]
    return g.b.Reshape(
        x.value, g.ints(shape), allowzero=1 if 0 not in shape and g.opset > 13 and g.chance(0.1) else None
    )


@maker(3)
def reshape_computed(g: Grower) -> Made:
    """The usual chain: Shape, Gather, arithmetic, Concat, Reshape."""
    x = _some(g, rank=2)
    whole = g.b.Shape(x.value)
    parts = [g.b.Gather(whole, g.ints([axis]), axis=0) for axis in range(x.rank)]
    place = g.rng.randrange(x.rank - 1)
    kind = g.rng.choice(["merge", "rest", "swap", "one", "half"])
    if kind == "merge":
        parts[place : place + 2] = [g.b.Mul(parts[place], parts[place + 1])]
    elif kind == "rest":
        parts[place : place + 2] = [g.ints([-1])]
    elif kind == "swap":
        parts[place], parts[place + 1] = parts[place + 1], parts[place]
    elif kind == "one":
        parts.insert(place, g.ints([1]))
    else:
        if not x.fixed(place) or x.fixed(place) % 2:
            raise Rejected
        two = g.ints([2])
        parts[place : place + 1] = [g.b.Div(parts[place], two), two]
    return g.b.Reshape(x.value, g.b.Concat(*parts, axis=0))


@maker()
def shape_slice(g: Grower) -> Made:
    """Shapes and sizes as values."""
    x = _some(g)
    kind = g.rng.choice(["shape", "part", "size", "scalar"])
    if kind == "size":
        return g.b.Size(x.value)
    if kind == "part" and g.opset >= 15 and x.rank:
        return g.b.Shape(x.value, start=g.rng.choice([None, -1, 1]), end=g.rng.choice([None, x.rank]))
    whole = g.b.Shape(x.value)
    if kind == "scalar" and x.rank:
        return g.b.Gather(whole, g.ints(g.rng.randrange(-x.rank, x.rank)), axis=0)
    return whole if x.rank else None


@maker()
def filled(g: Grower) -> Made:
    """ConstantOfShape, Range and EyeLike over computed sizes."""
    x = _some(g, rank=1)
    whole = g.b.Shape(x.value)
    kind = g.rng.choice(["constant", "range", "eye"])
    if kind == "constant":
        fill = g.rng.choice([None, torch.tensor([1.5]), torch.tensor([3])])
        return g.b.ConstantOfShape(whole, value=fill)
    if kind == "eye":
        if x.rank != 2:
            raise Rejected
        return g.b.EyeLike(x.value, dtype=g.rng.choice([1, 7]), k=g.rng.choice([None, 1, -1]))
    size = g.b.Squeeze(g.b.Gather(whole, g.ints([g.axis(x)]), axis=0), g.ints([0]))
    return g.b.Range(g.ints(g.rng.choice([0, -1])), size, g.ints(1))


@maker(2)
def squeeze(g: Grower) -> Made:
    x = _some(g)
    ones = [axis for axis in range(x.rank) if x.fixed(axis) == 1]
    if ones and g.chance(0.6):
        axes = g.rng.sample(ones, g.rng.randint(1, len(ones)))
        return g.b.Squeeze(x.value, g.ints([a - x.rank if g.chance(0.3) else a for a in axes]))
    rank = x.rank + g.rng.choice([1, 1, 2])
    axes = g.rng.sample(range(rank), rank - x.rank)
    return g.b.Unsqueeze(x.value, g.ints([a - rank if g.chance(0.3) else a for a in axes]))


@maker(3)
def slice_(g: Grower) -> Made:
    x = _some(g, rank=1)
    axes, starts, ends, steps = [], [], [], []
    for axis in g.rng.sample(range(x.rank), g.rng.choice([1, 1, min(2, x.rank)])):
        extent = min(size[axis] for size in x.sizes)
        step = g.rng.choice([1, 1, 1, 2, -1, -2])
        start = g.rng.randrange(extent)
        end = g.rng.choice([start + 1, extent, 1 << 40, -1]) if step > 0 else -(1 << 40)
        if step > 0 and end == -1 and start >= extent - 1:
            end = 1 << 40
        if step < 0 and g.chance(0.5):
            start = 1 << 40
        elif g.chance(0.3) and x.fixed(axis):
            start -= extent
        axes.append(axis - x.rank if g.chance(0.3) else axis)
        starts.append(start)
        ends.append(end)
        steps.append(step)
    plain = [g.ints(starts), g.ints(ends), g.ints(axes)]
    return g.b.Slice(x.value, *plain, None if all(s == 1 for s in steps) and g.chance(0.6) else g.ints(steps))


@maker()
def slice_computed(g: Grower) -> Made:
    """All but the last, to the size of another value, or the first half."""
    x = _some(g, rank=1)
    axis = g.rng.randrange(x.rank)
    if min(size[axis] for size in x.sizes) < 2:
        raise Rejected
    extent = g.b.Gather(g.b.Shape(x.value), g.ints([axis]), axis=0)
    end = g.rng.choice([
        lambda: g.b.Sub(extent, g.ints([1])), lambda: g.b.Div(extent, g.ints([2])),
        lambda: g.b.Min(extent, g.ints([3])),
    ])()  # fmt: skip
    if g.chance(0.3):
        return g.b.Slice(x.value, end, extent, g.ints([axis]))
    return g.b.Slice(x.value, g.ints([0]), end, g.ints([axis]))


@maker(2)
def concat(g: Grower) -> Made:
    x = _some(g, rank=1)
    axis = g.axis(x)

    def rest(item: Item) -> list[tuple[int, ...]]:
        return [(*s[: axis % x.rank], *s[axis % x.rank + 1 :]) for s in item.sizes]

    parts = [
        x,
        *(
            g.pick(lambda y: y.dtype is x.dtype and y.rank == x.rank and rest(y) == rest(x))
            for _ in range(g.rng.choice([1, 1, 2]))
        ),
    ]
    return g.b.Concat(*(part.value for part in parts), axis=axis)


@maker(2)
def split(g: Grower) -> Made:
    x = _some(g, rank=1)
    axis = g.axis(x)
    extent = x.fixed(axis)
    if extent < 2:
        least = min(size[axis] for size in x.sizes)
        if g.opset < 18 or least < 3:
            raise Rejected
        return g.b.Split(x.value, axis=axis, num_outputs=2, outputs=2)  # of an open extent, perhaps unequal
    if extent % 2 == 0 and g.chance(0.3):
        return g.b.Split(x.value, axis=axis, num_outputs=2 if g.opset >= 18 else None, outputs=2)
    first = g.rng.randrange(1, extent)
    return g.b.Split(x.value, g.ints([first, extent - first]), axis=axis, outputs=2)


@maker(2)
def gather(g: Grower) -> Made:
    x = _some(g, rank=1)
    axis = g.axis(x)
    extent = min(size[axis] for size in x.sizes)
    kind = g.rng.choice(["scalar", "vector", "matrix", "computed"])
    if kind == "computed":
        return g.b.Gather(x.value, _indices(g, extent), axis=axis)
    shape = {"scalar": (), "vector": (g.rng.randint(1, 3),), "matrix": (2, 2)}[kind]
    low = -extent if x.fixed(axis) else 0
    index = torch.randint(low, extent, shape, generator=g.noise)
    return g.b.Gather(x.value, g.b.constant(index if g.chance(0.7) else index.int()), axis=axis)


def _indices(g: Grower, extent: int) -> Value:
    """Computed integers between 0 and `extent`."""
    number = g.pick(lambda item: item.dtype in (DType.INT64, DType.INT32) and item.rank <= 2)
    return g.b.Mod(number.value, g.b.constant(torch.tensor(extent), like=number.value))


@maker()
def gather_elements(g: Grower) -> Made:
    x = _some(g, rank=1)
    axis = g.axis(x)
    numbers = g.pick(lambda item: item.dtype in (DType.INT64, DType.INT32) and _within(item, x, axis))
    extent = min(size[axis] for size in x.sizes)
    index = g.b.Mod(numbers.value, g.b.constant(torch.tensor(extent), like=numbers.value))
    return g.b.GatherElements(x.value, index, axis=axis)


def _within(item: Item, x: Item, axis: int) -> bool:
    """No larger than `x`, but along `axis`."""
    if item.rank != x.rank:
        return False
    return all(
        all(a <= b or i == axis % x.rank for i, (a, b) in enumerate(zip(mine, its, strict=True)))
        for mine, its in zip(item.sizes, x.sizes, strict=True)
    )


@maker()
def gather_nd(g: Grower) -> Made:
    x = _some(g, rank=2)
    depth = g.rng.randint(1, 2)
    limits = [min(size[axis] for size in x.sizes) for axis in range(depth)]
    rows = [[g.rng.randrange(limit) for limit in limits] for _ in range(2)]
    if g.chance(0.3) and g.b is not None and x.fixed(0):
        rows = [[g.rng.randrange(min(size[1] for size in x.sizes))] for _ in range(x.fixed(0))]
        return g.b.GatherND(x.value, g.ints(rows), batch_dims=1)
    return g.b.GatherND(x.value, g.ints(rows))


@maker()
def scatter(g: Grower) -> Made:
    x = g.pick(lambda item: item.dtype is DType.FLOAT32 and item.rank >= 1)
    if g.chance(0.5):
        axis = g.axis(x)
        extent = min(size[axis] for size in x.sizes)
        shape = [1] * x.rank
        index = g.ints(torch.randint(0, extent, shape, generator=g.noise).tolist())
        reduction = (
            g.rng.choice([None, "add", "mul", *(["max", "min"] if g.opset >= 18 else [])]) if g.opset >= 16 else None
        )
        return g.b.ScatterElements(x.value, index, g.weight(*shape), axis=axis, reduction=reduction)
    limit = min(size[0] for size in x.sizes)
    row = [[g.rng.randrange(limit)]]
    index = g.ints(row)
    updates = g.b.Mul(g.b.Gather(x.value, g.ints([0]), axis=0), g.full(0.5, like=x))
    return g.b.ScatterND(x.value, index, updates)


@maker(2)
def expand(g: Grower) -> Made:
    x = _some(g)
    kind = g.rng.choice(["numbers", "like", "tile", "tile computed"])
    if kind == "like":
        other = g.pick(lambda y: y.rank > 0 and broadcast(x, y))
        return g.b.Expand(x.value, g.b.Shape(other.value))
    if kind == "numbers":
        shape = [g.rng.choice([1, 2, 3]) if x.fixed(a) == 1 else 1 for a in range(x.rank)]
        return g.b.Expand(x.value, g.ints(([2] if g.chance(0.3) else []) + shape)) if shape else None
    if not x.rank:
        raise Rejected
    if kind == "tile":
        return g.b.Tile(x.value, g.ints([g.rng.choice([1, 1, 2]) for _ in range(x.rank)]))
    other = g.pick(lambda y: y.rank > 0 and max(size[0] for size in y.sizes) <= 4)
    ones = [g.ints([1])] * (x.rank - 1)
    return g.b.Tile(x.value, g.b.Concat(g.b.Gather(g.b.Shape(other.value), g.ints([0]), axis=0), *ones, axis=0))


@maker(2)
def pad(g: Grower) -> Made:
    x = (
        g.float(rank=1)
        if g.chance(0.8)
        else g.pick(lambda item: item.rank >= 1 and item.dtype in (DType.INT64, DType.INT32))
    )
    mode = g.rng.choice([None, "constant", "reflect", "edge", *(["wrap"] if g.opset >= 19 else [])])
    least = [min(size[a] for size in x.sizes) for a in range(x.rank)]
    before, after = ([g.rng.choice([0, 0, 1]) for _ in least] for _ in range(2))
    if mode == "reflect" and any(size == 1 and b + a for size, b, a in zip(least, before, after, strict=True)):
        raise Rejected
    if mode in (None, "constant") and g.chance(0.2):
        axis = g.rng.randrange(x.rank)
        if least[axis] > 2:
            before[axis] = -1
    fill = g.b.constant(torch.tensor(2), like=x.value) if mode in (None, "constant") and g.chance(0.5) else None
    if g.opset >= 18 and g.chance(0.3):
        axis = g.rng.randrange(x.rank)
        axes = g.ints([axis - x.rank if g.chance(0.5) else axis])
        return g.b.Pad(x.value, g.ints([before[axis], after[axis]]), fill, axes, mode=mode)
    return g.b.Pad(x.value, g.ints([*before, *after]), fill, mode=mode)


@maker()
def blocks(g: Grower) -> Made:
    x = g.float(lambda item: item.rank == 4)
    if g.chance(0.5):
        if x.fixed(1) % 4 or not x.fixed(1):
            raise Rejected
        return g.b.DepthToSpace(x.value, blocksize=2, mode=g.rng.choice([None, "CRD"]))
    if any(size[2] % 2 or size[3] % 2 for size in x.sizes):
        raise Rejected
    return g.b.SpaceToDepth(x.value, blocksize=2)


@maker()
def triangle(g: Grower) -> Made:
    x = _some(g, rank=2)
    k = g.rng.choice([None, 0, 1, -1])
    return g.b.Trilu(x.value, None if k is None else g.ints(k), upper=g.rng.choice([None, 0]))


@maker()
def top_k(g: Grower) -> Made:
    x = g.pick(lambda item: item.exact and item.rank >= 1 and item.dtype in (DType.FLOAT32, DType.INT64))
    axis = g.axis(x)
    k = g.rng.randint(1, min(size[axis] for size in x.sizes))
    if any(tensor.unique().numel() < tensor.numel() for tensor in x.data):
        raise Rejected  # which of equals comes first is for every runtime to decide
    both: Sequence[Value] = g.b.TopK(x.value, g.ints([k]), axis=axis, largest=g.rng.choice([None, 0]), outputs=2)
    return both if g.chance(0.5) else both[:1]


@maker()
def one_hot(g: Grower) -> Made:
    index = _indices(g, 4)
    values = g.b.constant(torch.tensor([0.5, 2.0]))
    return g.b.OneHot(index, g.ints(4), values, axis=g.rng.choice([None, 0]))


@maker()
def of_rows(g: Grower) -> Made:
    """Operators that choose or reorder rows."""
    x = _some(g, rank=2)
    kind = g.rng.choice(["reverse", "compress", "center", "non-zero", "unique"])
    if kind == "reverse":
        if not x.fixed(0):
            raise Rejected
        limit = min(size[1] for size in x.sizes)
        lengths = [g.rng.randint(1, limit) for _ in range(x.fixed(0))]
        return g.b.ReverseSequence(x.value, g.ints(lengths), batch_axis=0, time_axis=1)
    if kind == "compress":
        axis = g.axis(x)
        count = min(size[axis] for size in x.sizes)
        mask = torch.rand(count, generator=g.noise) < 0.6
        mask[g.rng.randrange(count)] = True
        return g.b.Compress(x.value, g.b.constant(mask), axis=axis)
    if kind == "center":
        if g.opset < 18:
            raise Rejected
        axis = g.axis(x)
        return g.b.CenterCropPad(x.value, g.ints([g.rng.randint(1, 5)]), axes=[axis])
    if not x.exact:
        raise Rejected
    if kind == "unique":
        if x.dtype not in (DType.FLOAT32, DType.INT64):
            raise Rejected
        return g.b.Unique(x.value, sorted=1, outputs=4)[:1]
    return g.b.NonZero(x.value)
