"""Layers: convolutions, pools, normalisations, products, recurrent cells, attention, resampling."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import DType, Value
from tests.random_onnx.grower import Grower, Item, Made, Rejected, maker


def _image(g: Grower, *ranks: int) -> Item:
    """A float32 value with channels whose number is known."""
    return g.pick(lambda x: x.dtype is DType.FLOAT32 and x.rank in (ranks or (3, 4, 5)) and x.fixed(1) > 0)


def _least(x: Item) -> list[int]:
    return [min(size[axis] for size in x.sizes) for axis in range(2, x.rank)]


def _window(g: Grower, x: Item, largest: int = 3) -> dict[str, Any]:
    """Attributes of a sliding window that fits."""
    dims = x.rank - 2
    dilation = g.rng.choice([1, 1, 1, 2])
    kernel = [g.rng.randint(1, largest) for _ in range(dims)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [g.rng.choice([1, 1, 2]) for _ in range(dims)]}
    if g.chance(0.25):
        # With dilations ONNX Runtime refuses to pad to the same size (Conv), or forgets them (AveragePool); with steps
        # wider than the window its older AveragePool wants pads below zero.
        dense = dilation == 1 and all(s <= k for s, k in zip(attributes["strides"], kernel, strict=True))
        attributes["auto_pad"] = g.rng.choice(["SAME_UPPER", "SAME_LOWER"]) if dense else "VALID"
    else:
        attributes["pads"] = [g.rng.randint(0, k // 2) for k in (*kernel, *kernel)]
    if dilation > 1:
        attributes["dilations"] = [dilation] * dims
    pads = attributes.get("pads", [0] * 2 * dims)
    for place, size in enumerate(_least(x)):
        reach = dilation * (kernel[place] - 1) + 1
        if size + pads[place] + pads[place + dims] < reach:
            raise Rejected
    return attributes


@maker(5)
def conv(g: Grower) -> Made:
    x = _image(g)
    inside = x.fixed(1)
    groups = g.rng.choice([d for d in range(1, inside + 1) if inside % d == 0])
    outside = groups * g.rng.randint(1, 2)
    attributes = _window(g, x)
    w = g.weight(outside, inside // groups, *attributes["kernel_shape"])
    if g.chance(0.5):
        del attributes["kernel_shape"]
    return g.b.Conv(x.value, w, g.rng.choice([None, g.weight(outside)]), group=groups, **attributes)


@maker(2)
def conv_transpose(g: Grower) -> Made:
    x = _image(g)
    inside, dims = x.fixed(1), x.rank - 2
    groups = g.rng.choice([d for d in range(1, inside + 1) if inside % d == 0])
    kernel = [g.rng.randint(1, 3) for _ in range(dims)]
    strides = [g.rng.choice([1, 2]) for _ in range(dims)]
    attributes: dict[str, Any] = {"strides": strides, "group": groups}
    kind = g.rng.choice(["pads", "auto", "extra"])
    if kind == "pads":
        attributes["pads"] = [g.rng.randint(0, (k - 1) // 2) for k in (*kernel, *kernel)]
    elif kind == "auto":
        attributes["auto_pad"] = g.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        if attributes["auto_pad"] != "VALID" and any(k < s for k, s in zip(kernel, strides, strict=True)):
            raise Rejected
    else:
        attributes["output_padding"] = [s - 1 for s in strides]
    w = g.weight(inside, g.rng.randint(1, 2), *kernel)
    outside = groups * int(w.shape[1])  # type: ignore[index,arg-type]  # weights have whole shapes
    return g.b.ConvTranspose(x.value, w, g.rng.choice([None, g.weight(outside)]), **attributes)


@maker(3)
def pool(g: Grower) -> Made:
    x = _image(g)
    name = g.rng.choice(["MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool", "Global"])
    if name == "Global":
        return g.b(g.rng.choice(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]), x.value)
    attributes = _window(g, x)
    if name == "LpPool":
        attributes["p"] = g.rng.choice([1, 2])
        if g.opset < 18:
            attributes.pop("dilations", None)
        return g.b.LpPool(x.value, **attributes)
    if g.chance(0.4) and "auto_pad" not in attributes:
        attributes["ceil_mode"] = 1
    if name == "AveragePool":
        if g.opset < 19:
            attributes.pop("dilations", None)
        return g.b.AveragePool(x.value, count_include_pad=g.rng.choice([None, 1]), **attributes)
    if x.exact and g.chance(0.2) and x.dtype is DType.FLOAT32:
        return g.b.MaxPool(x.value, outputs=2, storage_order=g.rng.choice([None, 1]), **attributes)
    return g.b.MaxPool(x.value, **attributes)


@maker()
def unpool(g: Grower) -> Made:
    x = g.pick(lambda item: item.exact and item.dtype is DType.FLOAT32 and item.rank == 4)
    if any(size[2] % 2 or size[3] % 2 for size in x.sizes):
        raise Rejected
    window: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pooled, where = g.b.MaxPool(x.value, outputs=2, **window)
    return g.b.MaxUnpool(pooled, where, **window)


@maker(4)
def norm(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype is DType.FLOAT32, rank=2)
    name = g.rng.choice(["Batch", "Batch", "Instance", "Group", "Layer", "Layer", "RMS", "MeanVariance", "LRN"])
    channels = x.fixed(1)
    if name == "Layer":
        return _layer_norm(g, x)
    if name == "RMS":
        axis = x.rank - 1
        return g.b.RMSNormalization(x.value, g.weight(x.fixed(axis), low=0.5), axis=-1) if x.fixed(axis) else None
    if name == "MeanVariance":
        return g.b.MeanVarianceNormalization(x.value, axes=g.rng.choice([[0, 2, 3], [1, 2]]) if x.rank > 3 else [0, 1])
    if not channels or (name in ("Instance", "Group") and x.rank < 3):
        raise Rejected
    if name == "LRN":
        return g.b.LRN(x.value, size=g.rng.choice([1, 3]), alpha=0.1, bias=1.5) if x.rank == 4 else None
    scale, bias = g.weight(channels, low=0.5), g.weight(channels)
    epsilon = g.rng.choice([None, 1e-3])
    if name == "Batch":
        return g.b.BatchNormalization(
            x.value, scale, bias, g.weight(channels), g.weight(channels, low=0.5), epsilon=epsilon
        )
    if name == "Instance":
        return g.b.InstanceNormalization(x.value, scale, bias, epsilon=epsilon)
    if g.opset < 21:
        raise Rejected
    groups = g.rng.choice([d for d in range(1, channels + 1) if channels % d == 0])
    return g.b.GroupNormalization(x.value, scale, bias, num_groups=groups, epsilon=epsilon)


def _layer_norm(g: Grower, x: Item) -> Made:
    axis = g.rng.randrange(1, x.rank)
    shape = [x.fixed(a) for a in range(axis, x.rank)]
    if not all(shape):
        raise Rejected
    scale, bias = g.weight(*shape, low=0.5), g.rng.choice([None, g.weight(*shape)])
    axis = axis - x.rank if g.chance(0.5) else axis
    if g.chance(0.15):
        return g.b.LayerNormalization(x.value, scale, bias, axis=axis, outputs=3)
    return g.b.LayerNormalization(x.value, scale, bias, axis=axis, epsilon=g.rng.choice([None, 1e-3]))


# -- products


@maker(3)
def matmul(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype in (DType.FLOAT32, DType.FLOAT64), rank=1)
    inside = x.fixed(-1)
    kind = g.rng.choice(["weight", "weight", "vector", "batched", "self"])
    if kind == "self":
        if x.rank < 2:
            raise Rejected
        perm = list(range(x.rank))
        perm[-1], perm[-2] = perm[-2], perm[-1]
        return g.b.MatMul(x.value, g.b.Transpose(x.value, perm=perm))
    if not inside:
        raise Rejected
    if kind == "vector":
        return g.b.MatMul(x.value, g.weight(inside, like=x))
    if kind == "batched" and x.rank <= 2:
        return g.b.MatMul(
            g.weight(2, 3, inside, like=x) if x.rank < 2 else g.weight(2, 1, 3, inside, like=x),
            g.b.Unsqueeze(x.value, g.ints([-1])),
        )
    return g.b.MatMul(x.value, g.weight(inside, g.rng.choice([2, 4, 6]), like=x))


@maker(2)
def gemm(g: Grower) -> Made:
    x = g.float(lambda item: item.rank == 2 and item.dtype in (DType.FLOAT32, DType.FLOAT64))
    trans_a, trans_b = g.rng.choice([None, 1]), g.rng.choice([None, 1])
    inside = x.fixed(0 if trans_a else 1)
    if not inside:
        raise Rejected
    out = g.rng.choice([2, 4])
    w = g.weight(*((out, inside) if trans_b else (inside, out)), like=x)
    shapes: list[tuple[int, ...]] = [(out,), (1, out), (1,), ()]
    c = g.rng.choice([None, g.weight(*g.rng.choice(shapes), like=x)])
    alpha, beta = g.rng.choice([None, 0.5]), g.rng.choice([None, 2.0])
    return g.b.Gemm(x.value, w, c, alpha=alpha, beta=beta, transA=trans_a, transB=trans_b)


@maker()
def einsum(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype is DType.FLOAT32, rank=2)
    letters = "abcde"[: x.rank]
    inside = x.fixed(-1)
    if g.chance(0.4) or not inside:
        order = "".join(g.rng.sample(letters, g.rng.randint(1, x.rank)))
        return g.b.Einsum(x.value, equation=f"{letters} -> {order}")
    return g.b.Einsum(x.value, g.weight(inside, 3), equation=f"...{letters[-1]},{letters[-1]}z->...z")


@maker()
def determinant(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype is DType.FLOAT32 and item.rank >= 2 and item.fixed(-1) == item.fixed(-2) > 0)
    return g.b.Det(x.value)


# -- recurrent cells and attention


@maker(2)
def recurrent(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype is DType.FLOAT32 and item.rank == 3 and item.fixed(2) > 0)
    name, gates = g.rng.choice([("RNN", 1), ("GRU", 3), ("LSTM", 4)])
    hidden, inside = 3, x.fixed(2)
    direction = g.rng.choice([None, "reverse", "bidirectional"])
    count = 2 if direction == "bidirectional" else 1
    w, r = g.weight(count, gates * hidden, inside), g.weight(count, gates * hidden, hidden)
    bias = g.weight(count, 2 * gates * hidden) if g.chance(0.7) else None
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    lengths = state = cell = peep = None
    if x.fixed(1):  # the batch
        if g.chance(0.3):
            limit = min(size[0] for size in x.sizes)
            lengths = g.ints([g.rng.randint(1, limit) for _ in range(x.fixed(1))], torch.int32)
        if g.chance(0.4):
            state = g.weight(count, x.fixed(1), hidden)
            cell = g.weight(count, x.fixed(1), hidden) if name == "LSTM" else None
    if name == "GRU":
        attributes["linear_before_reset"] = g.rng.choice([None, 1])
    if name == "RNN" and g.chance(0.3):
        attributes["activations"] = ["Relu"] * count
    if name == "LSTM" and g.chance(0.2):
        peep = g.weight(count, 3 * hidden)
    if g.chance(0.2):
        attributes["clip"] = 0.8
    extra = [cell, peep] if name == "LSTM" else []
    outputs = g.b(name, x.value, w, r, bias, lengths, state, *extra, outputs=3 if name == "LSTM" else 2, **attributes)
    return outputs if g.chance(0.5) else outputs[:1]


@maker(2)
def attention(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype is DType.FLOAT32 and item.rank in (3, 4) and item.fixed(item.rank - 1) > 0)
    if g.opset < 23:
        raise Rejected
    attributes: dict[str, Any] = {"is_causal": g.rng.choice([None, 1]), "scale": g.rng.choice([None, 0.4])}
    if x.rank == 3:
        heads = g.rng.choice([d for d in range(1, x.fixed(2) + 1) if x.fixed(2) % d == 0])
        attributes |= {"q_num_heads": heads, "kv_num_heads": heads}
    if g.chance(0.2):
        attributes["softcap"] = 2.0
    return g.b.Attention(x.value, x.value, x.value, **attributes)


@maker()
def rotary(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype is DType.FLOAT32 and item.rank == 4 and item.fixed(3) % 2 == 0 < item.fixed(3))
    if g.opset < 23 or not x.fixed(0):
        raise Rejected
    length = max(size[2] for size in x.sizes)
    if not x.fixed(2):
        raise Rejected
    cos, sin = (g.weight(x.fixed(0), length, x.fixed(3) // 2) for _ in range(2))
    return g.b.RotaryEmbedding(x.value, cos, sin, interleaved=g.rng.choice([None, 1]))


# -- resampling


@maker(3)
def resize(g: Grower) -> Made:
    x = _image(g, 3, 4)
    mode = g.rng.choice([None, "linear", "cubic"])
    coordinates = g.rng.choice([None, "asymmetric", "align_corners", "pytorch_half_pixel"])
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode is None:
        attributes["nearest_mode"] = g.rng.choice([None, "floor", "ceil", "round_prefer_ceil"])
    if mode == "cubic":
        if x.rank == 3:
            raise Rejected
        attributes["cubic_coeff_a"] = g.rng.choice([None, -0.5])
        attributes["exclude_outside"] = g.rng.choice([None, 1])
    if g.opset >= 18 and mode and g.chance(0.15):
        attributes["antialias"] = 1
    if g.chance(0.5):
        scales = [1.0, 1.0, *(g.rng.choice([0.5, 1.5, 2.0, 1.0]) for _ in range(x.rank - 2))]
        return g.b.Resize(x.value, None, g.b.constant(torch.tensor(scales)), **attributes)
    if g.opset >= 18 and g.chance(0.4):
        sizes = g.ints([g.rng.randint(2, 6) for _ in range(x.rank - 2)])
        policy = g.rng.choice([None, "not_larger", "not_smaller"])
        axes = list(range(2, x.rank))
        return g.b.Resize(x.value, None, None, sizes, axes=axes, keep_aspect_ratio_policy=policy, **attributes)
    head = g.b.Slice(g.b.Shape(x.value), g.ints([0]), g.ints([2]), g.ints([0]))
    sizes = g.b.Concat(head, g.ints([g.rng.randint(2, 6) for _ in range(x.rank - 2)]), axis=0)
    return g.b.Resize(x.value, None, None, sizes, **attributes)


@maker()
def sampled(g: Grower) -> Made:
    x = _image(g, 4)
    kind = g.rng.choice(["grid", "roi", "columns"])
    if kind == "columns":
        if g.opset < 18 or min(_least(x)) < 2:
            raise Rejected
        return _columns(g, x)
    if kind == "roi":
        if g.opset < 16:
            raise Rejected
        rois = g.b.constant(torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.5, 0.5, 2.5, 1.5]]))
        where = g.ints([0, min(x.sizes[0][0], 2) - 1])
        return g.b.RoiAlign(x.value, rois, where, output_height=2, output_width=2, sampling_ratio=2,
                            mode=g.rng.choice([None, "max"]))  # fmt: skip
    if g.opset < 20 or not x.fixed(0):
        raise Rejected
    grid = g.b.constant(torch.rand(x.fixed(0), 3, 2, 2, generator=g.noise) * 2.4 - 1.2)
    return g.b.GridSample(x.value, grid, mode=g.rng.choice([None, "nearest", "cubic"]),
                          align_corners=g.rng.choice([None, 1]),
                          padding_mode=g.rng.choice([None, "border", "reflection"]))  # fmt: skip


def _columns(g: Grower, x: Item) -> Value:
    """Columns of 2 x 2 blocks that are added up to an image of 3 x 3."""
    flat = g.b.Reshape(x.value, g.ints([0, 0, -1]))
    four = g.b.Slice(g.b.Concat(flat, flat, axis=2), g.ints([0]), g.ints([4]), g.ints([2]))
    wide = g.b.Concat(four, four, four, four, axis=1)
    return g.b.Col2Im(wide, g.ints([3, 3]), g.ints([2, 2]))


@maker()
def loss(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype is DType.FLOAT32 and item.rank == 2 and item.fixed(1) > 1)
    number = g.pick(lambda item: item.dtype is DType.INT64 and item.rank == 1 and
                    [s[0] for s in item.sizes] == [s[0] for s in x.sizes])  # fmt: skip
    target = g.b.Mod(number.value, g.ints(x.fixed(1)))
    reduction = g.rng.choice([None, "sum", "none"])
    if g.chance(0.5):
        return g.b.NegativeLogLikelihoodLoss(g.b.LogSoftmax(x.value, axis=1), target, reduction=reduction)
    return g.b.SoftmaxCrossEntropyLoss(x.value, target, reduction=reduction)


@maker()
def dropout(g: Grower) -> Made:
    return g.b.Dropout(g.float().value, g.rng.choice([None, g.b.constant(torch.tensor(0.3))]))
