"""Matches and near misses of the rules that recognise rotary embeddings, as exporters write them."""

import torch

from graphopt.ir import DType, Graph
from graphopt.passes.fuse import rotary as R
from graphopt.passes.fuse.recognition import OpsetLimit
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss
FAR = 1 << 62
DOUBLE = (DType.FLOAT64,)


def _x(d, batch="n", heads=2, length=3, size=4):
    return d.input(batch, heads, length, size)


def _angles(d, batch="n", length=3, pairs=2, double="halves"):
    """Cosines and sines [batch, 1, length, 2 * pairs] of positions, as LLaMA computes them."""
    freqs = d.input(batch, length, pairs)
    if double == "halves":
        both = d.Concat(freqs, freqs, axis=-1)
    else:
        one = d.Unsqueeze(freqs, [-1])
        both = d.Reshape(d.Concat(one, one, axis=-1), [0, 0, 2 * pairs])
    return [d.Unsqueeze(d.Mul(f(both), d.full(1.0625)), [1]) for f in (d.Cos, d.Sin)]


def _halves(d, x, size, split=False):
    if split:
        return d.Split(x, axis=-1, num_outputs=2, outputs=2)
    return d.Slice(x, [0], [size // 2], [3]), d.Slice(x, [size // 2], [FAR], [-1])


def _pairs(d, x):
    return d.Slice(x, [0], [FAR], [3], [2]), d.Slice(x, [1], [FAR], [-1], [2])


def _turned(d, x, size, form="halves"):
    """(-x2, x1), of halves or of neighbours."""
    if form != "pairs":
        a, b = _halves(d, x, size, form == "split")
        return d.Concat(d.Neg(b), a, axis=-1)
    a, b = _pairs(d, x)
    pairs = d.Concat(d.Unsqueeze(d.Neg(b), [-1]), d.Unsqueeze(a, [4]), axis=-1)
    return d.Reshape(pairs, [0, 0, 0, size])


def _rotated(d, x, cos, sin, size, form="halves"):
    return d.Add(d.Mul(x, cos), d.Mul(_turned(d, x, size, form), sin))


@match(R.RotaryOfWhole, 3, without=DOUBLE)
def llama(d):
    pairs, length = d.size(2), d.size(3)
    q, k = (_x(d, heads=heads, length=length, size=2 * pairs) for heads in (4, 2))
    cos, sin = _angles(d, length=length, pairs=pairs)
    lone = _x(d, 1, length=length, size=2 * pairs)
    one = _angles(d, 1, length, pairs)
    return (
        _rotated(d, q, cos, sin, 2 * pairs), d.Add(d.Mul(sin, _turned(d, k, 2 * pairs, "split")), d.Mul(cos, k)),
        _rotated(d, lone, *one, 2 * pairs),
    )  # fmt: skip


@match(R.RotaryOfWhole, 4, without=DOUBLE)
def angles_for_all_samples(d):
    """One row of angles for the whole batch, computed or constant, and heads behind the positions."""
    x, y, z = _x(d), _x(d), d.input("n", 3, 2, 4)
    table = [d.constant(torch.cat([half, half], -1)) for half in (d.weight(3, 2).data, d.weight(3, 2).data)]
    behind = [
        d.Unsqueeze(each, [2]) for each in (d.Concat(f, f, axis=2) for f in (d.input("n", 3, 2), d.input("n", 3, 2)))
    ]
    two = d.input(2, 3, 2, 4)
    freqs = [d.input(1, 3, 2) for _ in range(2)]
    one = [d.Unsqueeze(d.Concat(each, each, axis=2), [2]) for each in freqs]
    return (
        _rotated(d, x, *_angles(d, 1), 4), _rotated(d, y, *table, 4), _rotated(d, z, *behind, 4),
        _rotated(d, two, *one, 4),
    )  # fmt: skip


@match(R.RotaryOfWhole, 3, without=DOUBLE)
def gpt_j(d):
    pairs = d.size(2)
    x, y, z = (_x(d, size=2 * pairs) for _ in range(3))
    table = [d.constant(d.weight(9, pairs).data.repeat_interleave(2, -1)) for _ in range(2)]
    ids = d.input("n", 3, dtype=DType.INT64)
    looked_up = [d.Unsqueeze(d.Gather(each, ids), [1]) for each in table]
    first = [d.Slice(each, [0], [3], [0]) for each in table]
    return (
        _rotated(d, x, *_angles(d, pairs=pairs, double="pairs"), 2 * pairs, "pairs"),
        _rotated(d, y, *looked_up, 2 * pairs, "pairs"), _rotated(d, z, *first, 2 * pairs, "pairs"),
    )  # fmt: skip


@miss(R.RotaryOfWhole, reason="not the same")
def angles_that_differ_within_a_pair(d):
    x, y = _x(d), _x(d)
    mixed = _angles(d, double="pairs")
    return _rotated(d, x, *mixed, 4), _rotated(d, y, d.weight(1, 1, 3, 4), d.weight(3, 4), 4)


@miss(R.RotaryOfWhole, reason="pairs of the same tensor")
def turned_another_way(d):
    x, y, z = _x(d), _x(d), _x(d)
    cos, sin = _angles(d)
    a, b = _halves(d, x, 4)
    wrong_half = d.Add(d.Mul(x, cos), d.Mul(d.Concat(d.Neg(a), b, axis=-1), sin))
    of_another = d.Add(d.Mul(y, cos), d.Mul(_turned(d, z, 4), sin))
    uneven = d.Concat(d.Neg(d.Slice(y, [1], [FAR], [3])), d.Slice(y, [0], [1], [3]), axis=3)
    shifted = _x(d, size=6)
    a, b = d.Slice(shifted, [1], [3], [3]), d.Slice(shifted, [3], [5], [3])
    other = d.Add(d.Mul(d.Slice(shifted, [0], [4], [3]), cos), d.Mul(d.Concat(d.Neg(b), a, axis=3), sin))
    return wrong_half, of_another, d.Add(d.Mul(y, cos), d.Mul(uneven, sin)), other


@miss(R.RotaryOfWhole, reason="do not go with the positions")
def angles_for_every_head(d):
    x, f, g = _x(d), d.input("n", 2, 3, 2), d.input("n", 2, 3, 2)
    return _rotated(d, x, d.Concat(f, f, axis=-1), d.Concat(g, g, axis=-1), 4)


@miss(R.RotaryOfWhole, reason="samples of the angles")
def angles_for_all_of_open_many_samples(d):
    freqs = [d.input(1, 3, 2) for _ in range(2)]
    return _rotated(d, d.input("n", 3, 2, 4), *(d.Unsqueeze(d.Concat(f, f, axis=2), [2]) for f in freqs), 4)


@miss(R.RotaryOfWhole, reason="shape")
def angles_that_stretch(d):
    x = _x(d, length=1)
    return _rotated(d, x, *_angles(d, length=3), 4)


@miss(R.RotaryOfWhole, reason="needs opset 23", make=lambda: R.RotaryOfWhole(OpsetLimit(Graph())))
def rotary_in_a_file_of_today(d):
    return _rotated(d, _x(d), *_angles(d), 4)


@miss(R.RotaryOfWhole)
def turned_without_a_sign(d):
    x = _x(d)
    cos, sin = _angles(d)
    a, b = _halves(d, x, 4)
    return d.Add(d.Mul(x, cos), d.Mul(d.Concat(b, a, axis=-1), sin))


def _products(d, a, b, cos, sin):
    return d.Sub(d.Mul(a, cos), d.Mul(b, sin)), d.Add(d.Mul(sin, a), d.Mul(b, cos))


@match(R.RotaryOfHalves, 3, without=DOUBLE)
def computed_by_halves(d):
    pairs = d.size(2)
    x, y, z = (_x(d, size=2 * pairs) for _ in range(3))
    cos, sin = (d.Unsqueeze(d.input("n", 3, pairs), [1]) for _ in range(2))
    halves = d.Concat(*_products(d, *_halves(d, x, 2 * pairs), cos, sin), axis=-1)
    real, imaginary = _products(d, *_pairs(d, y), cos, sin)
    pairs_of = d.Reshape(d.Concat(d.Unsqueeze(real, [-1]), d.Unsqueeze(imaginary, [-1]), axis=-1), [0, 0, 0, 2 * pairs])
    view = d.Reshape(z, [0, 0, 0, pairs, 2])
    picked = [d.Gather(view, d.constant(torch.tensor(index)), axis=4) for index in (0, 1)]
    real, imaginary = _products(d, *picked, cos, sin)
    meta = d.Reshape(d.Concat(d.Unsqueeze(real, [4]), d.Unsqueeze(imaginary, [4]), axis=-1), [0, 0, 0, 2 * pairs])
    return halves, pairs_of, meta


@match(R.RotaryOfWhole, 2, without=DOUBLE)
def leading_columns_of_a_head(d):
    """As GPT-NeoX and GPT-J have it, after slices of slices have been merged."""
    size = 4 + d.size(4)
    x, y = (_x(d, size=size) for _ in range(2))
    first, second = d.Slice(x, [0], [2], [3]), d.Slice(x, [2], [4], [3])
    turned = d.Concat(d.Neg(second), first, axis=-1)
    cos, sin = _angles(d)
    halves = d.Add(d.Mul(d.Slice(x, [0], [4], [3]), cos), d.Mul(turned, sin))
    even, odd = d.Slice(y, [0], [4], [3], [2]), d.Slice(y, [1], [4], [3], [2])
    turned = d.Reshape(d.Concat(d.Unsqueeze(d.Neg(odd), [4]), d.Unsqueeze(even, [-1]), axis=4), [0, 0, 0, 4])
    cos, sin = _angles(d, double="pairs")
    return halves, d.Add(d.Mul(d.Slice(y, [0], [4], [3]), cos), d.Mul(turned, sin))


@match(R.RotaryOfHalves, without=DOUBLE)
def halves_of_the_leading_columns(d):
    x = _x(d, size=4 + d.size(4))
    cos, sin = (d.Unsqueeze(d.input("n", 3, 2), [1]) for _ in range(2))
    return d.Concat(*_products(d, d.Slice(x, [0], [2], [3]), d.Slice(x, [2], [4], [3]), cos, sin), axis=-1)


@miss(R.RotaryOfHalves, reason="pairs of one tensor")
def halves_joined_as_pairs(d):
    x, y = _x(d), _x(d)
    cos, sin = (d.Unsqueeze(d.input("n", 3, 2), [1]) for _ in range(2))
    real, imaginary = _products(d, *_halves(d, x, 4), cos, sin)
    crossed = d.Reshape(d.Concat(d.Unsqueeze(real, [-1]), d.Unsqueeze(imaginary, [-1]), axis=-1), [0, 0, 0, 4])
    return crossed, d.Concat(*_products(d, *_pairs(d, y), cos, sin), axis=-1)


@miss(R.RotaryOfHalves)
def turned_backwards(d):
    a, b = _halves(d, _x(d), 4)
    cos, sin = (d.Unsqueeze(d.input("n", 3, 2), [1]) for _ in range(2))
    return d.Concat(d.Add(d.Mul(a, cos), d.Mul(b, sin)), d.Sub(d.Mul(b, cos), d.Mul(a, sin)), axis=-1)


def _tables(d, ids, pairs=2):
    return [d.Gather(d.weight(9, pairs), ids) for _ in range(2)]


@match(R.RotaryByPositions, 2, without=DOUBLE)
def looked_up_angles(d):
    ids = d.input("n", 3, dtype=DType.INT64)
    rows = _tables(d, ids)
    return d.RotaryEmbedding(_x(d), *rows), d.RotaryEmbedding(_x(d), *rows, interleaved=1)


@miss(R.RotaryByPositions, reason="every sample")
def positions_for_all_samples(d):
    rows = _tables(d, d.input(1, 3, dtype=DType.INT64))
    return d.RotaryEmbedding(d.input(1, 2, 3, 4), *_tables(d, d.input("m", 3, dtype=DType.INT64))), d.RotaryEmbedding(
        d.input("k", 2, 3, 4), *rows
    )


@miss(R.RotaryByPositions)
def angles_looked_up_at_two_positions(d):
    ids = [d.input("n", 3, dtype=DType.INT64) for _ in range(2)]
    return d.RotaryEmbedding(_x(d), *(d.Gather(d.weight(9, 2), each) for each in ids))


@match(R.RotaryOfPart, 4, without=DOUBLE)
def gpt_neox(d):
    """A quarter of each head is rotated."""
    size = 4 + d.size(4)
    x, y, z = (_x(d, size=size) for _ in range(3))
    caches = [d.input("n", 3, 2) for _ in range(2)]
    one = [d.input(1, 3, 2) for _ in range(2)]

    def parts(x):
        return d.Slice(x, [0], [4], [3]), d.Slice(x, [4], [FAR], [-1])

    first, rest = d.Split(y, d.constant([4, size - 4]), axis=3, outputs=2)
    merged = d.RotaryEmbedding(d.Reshape(parts(z)[0], [1, -1, 0, 0]), *one)
    wide = _x(d, size=size + 8)
    inner = d.RotaryEmbedding(d.Slice(wide, [3], [7], [3]), *caches)
    return (
        d.Concat(inner, d.Slice(wide, [7], [size + 3], [3]), axis=3),
        d.Concat(d.RotaryEmbedding(parts(x)[0], *caches), parts(x)[1], axis=3),
        d.Concat(d.RotaryEmbedding(first, *caches, interleaved=1), rest, axis=-1),
        d.Concat(d.Reshape(merged, [-1, 2, 0, 0]), parts(z)[1], axis=-1),
    )  # fmt: skip


@miss(R.RotaryOfPart, reason="not in order")
def trailing_part(d):
    x = _x(d, size=8)
    turned = d.RotaryEmbedding(d.Slice(x, [4], [8], [3]), d.input("n", 3, 2), d.input("n", 3, 2))
    return d.Concat(turned, d.Slice(x, [0], [4], [3]), axis=3)


@miss(R.RotaryOfPart, reason="one tensor")
def part_beside_another_tensor(d):
    x, y = _x(d, size=8), _x(d, size=8)
    turned = d.RotaryEmbedding(d.Slice(x, [0], [4], [3]), d.input("n", 3, 2), d.input("n", 3, 2))
    return d.Concat(turned, d.Slice(y, [4], [8], [3]), axis=3)
