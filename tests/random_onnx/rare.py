"""Operators that few models have: signals, windows, boxes, grids, classical ones, and attention with all its inputs."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import DType, TensorType
from tests.random_onnx.grower import Grower, Item, Made, Rejected, maker

ML = "ai.onnx.ml"


def _plain(item: Item) -> bool:
    return item.dtype is DType.FLOAT32


@maker()
def window(g: Grower) -> Made:
    """A window as long as an axis."""
    x = g.pick(lambda item: item.rank >= 1 and _plain(item))
    if g.opset < 17:
        raise Rejected
    axis = g.rng.randrange(x.rank)
    size = g.b.Squeeze(g.b.Gather(g.b.Shape(x.value), g.ints([axis]), axis=0), g.ints([0]))
    name = g.rng.choice(["HannWindow", "HammingWindow", "BlackmanWindow"])
    return g.b(name, size, periodic=g.rng.choice([None, 0]))


@maker()
def fourier(g: Grower) -> Made:
    x = g.pick(_plain, lambda item: item.rank == 2)
    if g.opset < 20:
        raise Rejected
    real = g.b.Unsqueeze(x.value, g.ints([-1]))
    spectrum = g.b.DFT(real, None, g.ints(1), onesided=g.rng.choice([None, 1]))
    return g.b.Mul(spectrum, g.b.constant(torch.tensor(0.3)))


@maker()
def boxes(g: Grower) -> Made:
    """Non-maximum suppression of constant boxes by scores that are exact."""
    x = g.pick(_plain, lambda item: item.exact and item.rank == 2 and min(s[1] for s in item.sizes) >= 4)
    scores = g.b.Unsqueeze(g.b.Slice(x.value, g.ints([0]), g.ints([4]), g.ints([1])), g.ints([1]))
    corners = torch.rand(1, 4, 2, generator=g.noise)
    held = g.b.constant(torch.cat([corners, corners + torch.rand(1, 4, 2, generator=g.noise) + 0.1], -1))
    rows = g.b.Slice(g.b.Shape(x.value), g.ints([0]), g.ints([1]), g.ints([0]))
    spread = g.b.Expand(held, g.b.Concat(rows, g.ints([1, 1]), axis=0))
    limit = g.b.constant(torch.tensor(g.rng.choice([0.3, 0.6])))
    return g.b.NonMaxSuppression(spread, scores, g.ints([2]), limit)


@maker()
def affine(g: Grower) -> Made:
    x = g.pick(_plain, lambda item: item.rank == 4 and item.fixed(0) > 0 and item.fixed(1) > 0)
    if g.opset < 20:
        raise Rejected
    theta = g.b.constant(torch.eye(2, 3).repeat(x.fixed(0), 1, 1) + torch.randn(1, 2, 3, generator=g.noise) * 0.2)
    size = g.ints([x.fixed(0), x.fixed(1), 3, 2])
    grid = g.b.AffineGrid(theta, size, align_corners=g.rng.choice([None, 1]))
    return [grid, g.b.GridSample(x.value, grid)]


@maker()
def map_sequence(g: Grower) -> Made:
    """A body on every element of a sequence, with what is outside it."""
    x = g.pick(_plain, lambda item: item.rank >= 1)
    if g.opset < 17 or g.depth:
        raise Rejected
    inner = Grower(g.rng, g.opset, g)
    part = inner.graph.add_input("part", TensorType(DType.FLOAT32, x.value.shape))
    inner.graph.add_output(inner.b.Tanh(inner.b.Add(part, x.value)), "out")
    rows = g.b.SequenceConstruct(x.value, g.b.Neg(x.value))
    return g.b.ConcatFromSequence(g.b.SequenceMap(rows, body=inner.graph), axis=0, new_axis=1)


@maker()
def classical(g: Grower) -> Made:
    """Operators of ai.onnx.ml."""
    x = g.pick(_plain, lambda item: item.rank == 2 and item.fixed(1) > 0)
    kind = g.rng.choice(["Normalizer", "Scaler", "Binarizer", "LabelEncoder"])
    if kind == "Normalizer":
        # ONNX Runtime computes L2 in place, over what it still has to read, wherever it knows the shapes.
        return g.b.Normalizer(x.value, norm=g.rng.choice(["MAX", "L1"]), domain=ML)
    if kind == "Scaler":
        count = g.rng.choice([1, x.fixed(1)])
        return g.b.Scaler(x.value, offset=[0.5] * count, scale=[1.5] * count, domain=ML)
    if kind == "Binarizer":
        return g.b.Binarizer(x.value, threshold=0.2, domain=ML) if x.exact else None
    number = g.pick(lambda item: item.dtype is DType.INT64)
    return g.b.LabelEncoder(number.value, keys_int64s=[0, 1, 2], values_floats=[0.5, -1.0, 2.0], default_float=0.25,
                            domain=ML)  # fmt: skip


@maker(2)
def full_attention(g: Grower) -> Made:
    """Attention with masks, a past, fewer heads for keys, and all its outputs."""
    x = g.pick(_plain, lambda item: item.rank == 4 and item.fixed(1) > 0 and item.fixed(2) > 0 and item.fixed(3) > 0)
    if g.opset < 23:
        raise Rejected
    heads, length, depth = x.fixed(1), x.fixed(2), x.fixed(3)
    attributes: dict[str, Any] = {"is_causal": g.rng.choice([None, 1]), "scale": g.rng.choice([None, 0.4])}
    keys = x.value
    if heads % 2 == 0 and g.chance(0.4):
        keys = g.b.Slice(x.value, g.ints([0]), g.ints([heads // 2]), g.ints([1]))
    mask = None
    total = length
    past: list[Any] = []
    if x.fixed(0) and keys is x.value and g.chance(0.3):
        past = [g.weight(x.fixed(0), heads, 2, depth) for _ in range(2)]
        total += 2
    if g.chance(0.5):
        mask = g.weight(length, total) if g.chance(0.5) else g.b.constant(torch.ones(length, total).tril(1).bool())
    made = g.b.Attention(x.value, keys, g.b.Tanh(keys), mask, *past, outputs=3 if past else 1, **attributes)
    return list(made)


@maker()
def optional(g: Grower) -> Made:
    x = g.pick(_plain)
    if g.opset < 18:
        raise Rejected
    return g.b.OptionalHasElement(g.b.Optional(x.value))


@maker()
def regions(g: Grower) -> Made:
    x = g.pick(_plain, lambda item: item.exact and item.rank == 4)
    second = float(min(x.sizes[0][0], 2) - 1)
    rois = g.b.constant(torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0], [second, 1.0, 0.0, 3.0, 2.0]]))
    return g.b.MaxRoiPool(x.value, rois, pooled_shape=[2, 2], spatial_scale=1.0)
