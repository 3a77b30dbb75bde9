"""Random graphs for differential testing: operators that simplification and fusion look for, in random company.

A graph is grown from a pool of values; every step picks a producer that fits what is there. Half of the steps are
motifs: the patterns that rules look for, whole or with something wrong in them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from graphopt.ir import DType, Value
from tests.bench import fuzz_motifs as M
from tests.passes.rule_cases import Draft

Step = Callable[["Grower", Value], Value | None]


class Grower:
    """A graph in the making.

    Args:
        seed: decides everything.
        steps: operators or motifs to add.
    """

    def __init__(self, seed: int, steps: int) -> None:
        self.random = random.Random(seed)
        self.d = Draft(seed)
        batch = self.random.choice([2, 2, "n"])
        channels, side = self.random.choice([2, 3, 4]), self.random.choice([3, 4])
        self.pool: list[Value] = [self.d.input(batch, channels, side, side)]
        if self.random.random() < 0.5:
            self.pool.append(self.d.input(batch, channels, side, side))
        if self.random.random() < 0.5:
            self.pool.append(self.d.input(batch, self.random.choice([4, 6])))
        for _ in range(steps):
            self._grow()
        leaves = [value for value in self.pool if not value.uses and value.producer is not None]
        extra = [value for value in self.pool if value.producer is not None and self.random.random() < 0.1]
        self.d.output(*dict.fromkeys(leaves + extra))

    def _grow(self) -> None:
        x = self.random.choice(self.pool[-4:] if self.random.random() < 0.7 else self.pool)
        made = self.random.choice(STEPS)(self, x)
        if made is not None and _is_small(made):
            self.pool.append(made)

    def number(self) -> float:
        """A factor or addend, neutral ones among them."""
        return self.random.choice([0.0, 1.0, 0.5, 2.0, -1.0, 3.0, 6.0, 0.1])

    def full(self, number: float, *shape: int) -> Value:
        return self.d.full(number, *shape)

    def axis(self, x: Value) -> int:
        """An axis with a known extent, from the front or the back."""
        known = [i for i, extent in enumerate(x.shape or ()) if isinstance(extent, int)]
        axis = self.random.choice(known) if known else 0
        return axis if self.random.random() < 0.5 else axis - (x.rank or 1)

    def extent(self, x: Value, axis: int) -> int:
        shape = x.shape or ()
        extent = shape[axis] if -len(shape) <= axis < len(shape) else 0
        return extent if isinstance(extent, int) else 0

    def weight(self, *shape: int) -> Value:
        return self.d.constant(self.d.weight(*shape).data * 0.5)


def _is_small(value: Value) -> bool:
    shape = value.shape
    if shape is None or not 1 <= len(shape) <= 6:
        return False
    known = [extent for extent in shape if isinstance(extent, int)]
    return 0 < math.prod(known) <= 4096 and len(known) >= len(shape) - 1 and value.dtype is DType.FLOAT32


# -- single operators


def unary(g: Grower, x: Value) -> Value:
    if g.random.random() < 0.1:  # of which a root, or the inverse, can be taken
        return g.d(g.random.choice(["Sqrt", "Reciprocal"]), g.d.Add(g.d.Abs(x), g.full(0.5)))
    name = g.random.choice(["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity", "Softplus", "Erf"])
    return g.d(name, x)


def arithmetic(g: Grower, x: Value) -> Value | None:
    channels = x.shape[1] if x.rank and x.rank > 1 else None
    shapes: list[tuple[int, ...]] = [(), (1,), (1, 1)]
    if isinstance(channels, int) and x.rank is not None:
        shapes += [(channels, *[1] * (x.rank - 2)), (1, channels, *[1] * (x.rank - 2))]
    last = g.extent(x, -1) if x.rank else 0
    if last:
        shapes.append((last,))
    shape = g.random.choice(shapes)
    single = g.random.random() < 0.6
    c = g.full(g.number(), *shape) if single else g.weight(*shape)
    op = g.random.choice(["Add", "Mul", "Sub", "Div", "Max", "Min", "Pow"])
    if op == "Sub" and g.random.random() < 0.3:
        return g.d.Sub(c, x)
    if op == "Div":
        c = g.full(g.random.choice([1.0, 2.0, -0.5, 3.0]), *shape)
    if op == "Pow":
        return g.d.Pow(x, g.full(g.random.choice([1.0, 2.0])))
    return g.d(op, c, x) if g.random.random() < 0.3 and op != "Div" else g.d(op, x, c)


def binary(g: Grower, x: Value) -> Value | None:
    others = [value for value in g.pool if value.shape == x.shape]
    other = g.random.choice(others)
    return g.d(g.random.choice(["Add", "Mul", "Sub", "Max", "Min"]), x, other)


def clip(g: Grower, x: Value) -> Value:
    low, high = (g.random.choice([None, -1.0, 0.0, 0.5, 1.0, 2.0, 6.0]) for _ in range(2))
    return g.d.Clip(x, None if low is None else g.full(low), None if high is None else g.full(high))


def transpose(g: Grower, x: Value) -> Value:
    perm = list(range(x.rank or 0))
    g.random.shuffle(perm)
    return g.d.Transpose(x, perm=perm)


def transpose_back(g: Grower, x: Value) -> Value | None:
    node = x.producer
    while node is not None and node.op != "Transpose":
        node = node.inputs[0].producer if node.inputs and node.inputs[0] is not None else None
    perm = node.attributes["perm"] if node is not None else ()
    if len(perm) != x.rank:
        return None
    return g.d.Transpose(x, perm=[list(perm).index(i) for i in range(len(perm))])


def reshape(g: Grower, x: Value) -> Value | None:
    shape = list(x.shape or ())
    if not all(isinstance(extent, int) for extent in shape[1:]):
        return None
    inner = [int(extent) for extent in shape[1:]]
    kind = g.random.choice(["flatten", "merge", "split", "squeeze", "unsqueeze", "back"])
    if kind == "flatten":
        return g.d.Flatten(x, axis=1)
    if kind == "merge" and len(inner) > 1:
        place = g.random.randrange(len(inner) - 1)
        return g.d.Reshape(x, [0, *inner[:place], inner[place] * inner[place + 1], *inner[place + 2 :]])
    if kind == "split" and inner and inner[-1] % 2 == 0:
        return g.d.Reshape(x, [-1, *inner[:-1], 2, inner[-1] // 2])
    if kind == "squeeze" and 1 in inner:
        return g.d.Squeeze(x, [1 + inner.index(1)])
    if kind == "unsqueeze":
        return g.d.Unsqueeze(x, [g.random.randrange(len(shape) + 1)])
    return g.d.Reshape(x, d_shape) if (d_shape := _some_shape(g, x)) is not None else None


def _some_shape(g: Grower, x: Value) -> Value | None:
    """The computed shape of a value with as many elements."""
    numbers = [value for value in g.pool if _elements(value) == _elements(x)]
    return g.d.Shape(g.random.choice(numbers)) if numbers else None


def _elements(value: Value) -> tuple[int, int]:
    shape = value.shape or ()
    return math.prod(e for e in shape if isinstance(e, int)), sum(not isinstance(e, int) for e in shape)


def slice_(g: Grower, x: Value) -> Value | None:
    axis = g.axis(x)
    extent = g.extent(x, axis)
    start, end = g.random.randrange(-extent - 1, extent + 1), g.random.choice([1, extent, 1 << 62, -1, 2])
    step = g.random.choice([1, 1, 1, 2, -1])
    if step < 0:
        start, end = -1, -(1 << 62)
    return g.d.Slice(x, [start], [end], [axis], None if step == 1 else [step])


def rolled(g: Grower, x: Value) -> Value | None:
    axis = g.axis(x)
    if g.extent(x, axis) < 2:
        return None
    at = g.random.randrange(1, g.extent(x, axis))
    parts = [g.d.Slice(x, [at], [1 << 62], [axis]), g.d.Slice(x, [0], [at], [axis])]
    g.random.shuffle(parts)
    if g.random.random() < 0.2:
        g.pool.append(parts[0])
    return g.d.Concat(*parts, axis=axis)


def element(g: Grower, x: Value) -> Value | None:
    axis = g.axis(x)
    extent = g.extent(x, axis)
    if (x.rank or 0) < 2 or not extent:
        return None
    at = g.random.randrange(extent)
    if g.random.random() < 0.5:
        return g.d.Gather(x, g.d.constant(at), axis=axis)
    return g.d.Squeeze(g.d.Slice(x, [at], [at + 1], [axis]), [axis])


def split(g: Grower, x: Value) -> Value | None:
    axis = g.axis(x)
    extent = g.extent(x, axis)
    if extent < 2:
        return None
    if g.random.random() < 0.3:
        sequence = g.d.SplitToSequence(x, g.d.constant(1 + extent // 3), axis=axis)
        return g.d.SequenceAt(sequence, g.d.constant(g.random.choice([0, -1])))
    first = g.random.randrange(1, extent)
    parts = g.d.Split(x, g.d.constant([first, extent - first]), axis=axis, outputs=2)
    if g.random.random() < 0.4:
        return g.d.Concat(*parts, axis=axis)
    g.pool += [part for part in parts if _is_small(part)]
    return None


def concat(g: Grower, x: Value) -> Value | None:
    others = [value for value in g.pool if value.shape == x.shape]
    return g.d.Concat(x, *g.random.choices(others, k=g.random.choice([1, 2])), axis=g.axis(x))


def reduce_(g: Grower, x: Value) -> Value | None:
    axes = sorted({g.axis(x) % (x.rank or 1) for _ in range(g.random.choice([1, 2]))})
    keep = g.random.choice([0, 1])
    if not keep and len(axes) >= (x.rank or 0) - 1:
        return None
    return g.d(g.random.choice(["ReduceMean", "ReduceSum", "ReduceMax"]), x, axes, keepdims=keep)


def expand(g: Grower, x: Value) -> Value | None:
    others = [value for value in g.pool if value.rank == x.rank and value.rank]
    small = g.d.ReduceMean(x, [g.axis(x)], keepdims=1)
    other = g.random.choice(others)
    if other.shape != x.shape:
        return None
    spread = g.d.Expand(small, g.d.Shape(other))
    return spread if g.random.random() < 0.3 else g.d.Add(spread, other)


def where(g: Grower, x: Value) -> Value | None:
    condition = g.d.Greater(x, g.full(g.number()))
    return g.d.Where(condition, x, g.random.choice([x, g.d.Mul(x, g.full(0.1)), g.full(0.0)]))


def cast(g: Grower, x: Value) -> Value:
    through = g.random.choice([DType.FLOAT64, DType.FLOAT32])
    return g.d.Cast(g.d.Cast(x, to=int(through)), to=int(DType.FLOAT32))


def pad(g: Grower, x: Value) -> Value | None:
    if x.rank != 4:
        return None
    edge = g.random.choice([0, 1])
    padded = g.d.Pad(x, [0, 0, edge, 1, 0, 0, 1, edge], g.random.choice([None, g.full(0), g.full(-0.5)]))
    kind = g.random.choice(["pad", "max", "average", "none"])
    if kind == "pad":
        return g.d.Pad(padded, [0, 0, 0, 1, 0, 0, 0, 0], g.random.choice([None, g.full(0)]))
    if kind == "max":
        return g.d.MaxPool(padded, kernel_shape=[2, 2])
    if kind == "average":
        return g.d.AveragePool(padded, kernel_shape=[2, 2], count_include_pad=g.random.choice([0, 1]))
    return padded


# -- layers


def conv(g: Grower, x: Value) -> Value | None:
    if x.rank != 4 or not g.extent(x, 1) or min(g.extent(x, 2), g.extent(x, 3)) < 2:
        return None
    channels = g.extent(x, 1)
    kernel, edge = g.random.choice([(1, 0), (3, 1), (2, 0)])
    group = channels if g.random.random() < 0.3 else 1
    out = channels * g.random.choice([1, 2]) if group > 1 else g.random.choice([channels, 2, 4])
    if out > 16:
        return None
    w = g.weight(out, channels // group, kernel, kernel)
    if g.random.random() < 0.1:
        shared = [v for v in g.d.graph.constants if v.shape == w.shape]
        w = g.random.choice(shared) if shared else w
    y = g.d.Conv(x, w, g.random.choice([None, g.weight(out)]), pads=[edge] * 4, group=group)
    if g.random.random() < 0.2:
        g.pool.append(y)
    return g.d.bn(y, out) if g.random.random() < 0.4 else y


def parallel(g: Grower, x: Value) -> Value | None:
    if x.rank == 4 and g.extent(x, 1):
        layers = [g.d.Conv(x, g.weight(2, g.extent(x, 1), 1, 1), g.weight(2)) for _ in range(3)]
    elif x.rank in (2, 3) and g.extent(x, -1):
        layers = [g.d.Add(g.d.MatMul(x, g.weight(g.extent(x, -1), 4)), g.weight(4)) for _ in range(2)]
    else:
        return None
    if g.random.random() < 0.5:
        layers = [g.d.Relu(layer) for layer in layers]
    if g.random.random() < 0.3:
        g.pool.append(layers[0])
    return g.d.Add(layers[0], layers[1]) if len(layers) == 2 else g.d.Concat(*layers, axis=1)


def bn(g: Grower, x: Value) -> Value | None:
    channels = g.extent(x, 1) if (x.rank or 0) > 1 else 0
    return g.d.bn(x, channels) if channels else None


def linear(g: Grower, x: Value) -> Value | None:
    features = g.extent(x, -1)
    if (x.rank or 0) < 2 or not features:
        return None
    out = g.random.choice([features, 4, 6])
    if x.rank == 2 and g.random.random() < 0.4:
        transposed = g.random.choice([0, 1])
        w = g.weight(out, features) if transposed else g.weight(features, out)
        return g.d.Gemm(x, w, g.random.choice([None, g.weight(out)]), transB=transposed, alpha=0.5)
    y = g.d.MatMul(x, g.weight(features, out))
    return g.d.Add(y, g.weight(out)) if g.random.random() < 0.6 else y


def attention(g: Grower, x: Value) -> Value | None:
    if x.rank != 3 or g.extent(x, -1) % 2 or not g.extent(x, -1) or not g.extent(x, 1):
        return None
    features, length = g.extent(x, -1), g.extent(x, 1)
    perms = [[0, 2, 1, 3], [0, 2, 1, 3], [0, 2, 1, 3]]

    def heads(place: int) -> Value:
        y = g.d.Add(g.d.MatMul(x, g.weight(features, features)), g.weight(features))
        return g.d.Transpose(g.d.Reshape(y, [-1, length, 2, features // 2]), perm=perms[place])

    q, k, v = (heads(i) for i in range(3))
    k = g.d.Transpose(k, perm=[0, 1, 3, 2])
    if g.random.random() < 0.5:
        q, k = g.d.Mul(q, g.full(0.7)), g.d.Mul(k, g.full(0.7))
        scores = g.d.MatMul(q, k)
    else:
        scores = g.d.Div(g.d.MatMul(q, k), g.full(2.0))
    y = g.d.MatMul(g.d.Softmax(scores, axis=-1), v)
    return g.d.Reshape(g.d.Transpose(y, perm=[0, 2, 1, 3]), [-1, length, features])


STEPS: tuple[Step, ...] = (
    unary, unary, arithmetic, arithmetic, arithmetic, binary, clip, clip, transpose, transpose, transpose_back, reshape,
    reshape, slice_, slice_, rolled, element, split, concat, reduce_, expand, where, cast, pad, conv, conv, parallel,
    bn, linear, linear, attention, M.gelu, M.gelu_tanh, M.gate, M.norm, M.group_norm, M.softmax,
)  # fmt: skip
