"""Quantization: Q and DQ of all widths, and the integer operators."""

from __future__ import annotations

import torch

from graphopt.ir import DType, Value
from tests.random_onnx.grower import Grower, Item, Made, Rejected, maker

_ZERO = {torch.uint8: 120, torch.int8: 3, torch.uint16: 30000, torch.int16: -20}


def _steps(g: Grower, x: Item, axis: int | None = None) -> Value:
    """Scales that map the range of `x` to seven bits or so."""
    largest = max(float(each.abs().max()) for each in x.data) or 1.0
    if axis is None:
        return g.b.constant(torch.tensor(largest / 100))
    return g.b.constant((torch.rand(x.fixed(axis), generator=g.noise) + 1) * largest / 100)


@maker(4)
def quantize_dequantize(g: Grower) -> Made:
    x = g.float(lambda item: item.exact and item.dtype is DType.FLOAT32)
    kind = g.rng.choice([torch.uint8, torch.int8, *([torch.uint16, torch.int16] if g.opset >= 21 else [])])
    axes = [axis for axis in range(x.rank) if x.fixed(axis)]
    axis = g.rng.choice(axes) if axes and g.chance(0.4) else None
    scale = _steps(g, x, axis)
    zero = g.b.constant(torch.full(scale.data.shape, _ZERO[kind], dtype=kind))  # type: ignore[union-attr]  # a constant has data
    if g.chance(0.2) and kind is torch.uint8:
        zero = None
    number = None if axis is None else axis - x.rank if g.chance(0.5) else axis
    q = g.b.QuantizeLinear(x.value, scale, zero, axis=number)
    back = g.b.DequantizeLinear(q, scale, zero, axis=number)
    return [q, back] if g.chance(0.4) else back


@maker(2)
def stored_weight(g: Grower) -> Made:
    """A quantized weight: one scale for all, for each column, or for each block; four bits where there are."""
    x = g.float(lambda item: item.dtype is DType.FLOAT32 and item.rank >= 2 and item.fixed(-1) > 0)
    inside, outside = x.fixed(-1), 4
    numbers = torch.randint(-7, 8, (inside, outside), generator=g.noise).to(torch.int8)
    kind = g.rng.choice(["tensor", "column", *(["block"] if g.opset >= 21 and inside % 2 == 0 else [])])
    narrow = g.opset >= 21 and g.chance(0.5)
    stored = g.b.constant(numbers, dtype=DType.INT4 if narrow else None)
    if kind == "tensor":
        weight = g.b.DequantizeLinear(stored, g.b.constant(torch.tensor(0.1)))
    elif kind == "column":
        weight = g.b.DequantizeLinear(stored, g.weight(outside, low=0.1), axis=1)
    else:
        weight = g.b.DequantizeLinear(stored, g.weight(inside // 2, outside, low=0.1), axis=0, block_size=2)
    return g.b.MatMul(x.value, weight)


@maker()
def dynamic(g: Grower) -> Made:
    x = g.float(lambda item: item.exact and item.dtype is DType.FLOAT32 and item.rank >= 2 and item.fixed(-1) > 0)
    q, scale, zero = g.b.DynamicQuantizeLinear(x.value, outputs=3)
    w = g.b.constant(torch.randint(-20, 20, (x.fixed(-1), 3), generator=g.noise).to(torch.int8))
    product = g.b.MatMulInteger(q, w, zero)
    return g.b.Mul(g.b.Cast(product, to=1), g.b.Mul(scale, g.full(0.02, like=x)))


@maker()
def integer_layers(g: Grower) -> Made:
    x = g.pick(lambda item: item.dtype is DType.UINT8 and item.rank >= 2 and item.fixed(1) > 0)
    kind = g.rng.choice(["ConvInteger", "MatMulInteger", "QLinearMatMul", "QLinearConv"])
    scale, zero = g.b.constant(torch.tensor(0.05)), g.b.constant(torch.tensor(10, dtype=torch.uint8))
    if "Conv" in kind:
        if x.rank != 4:
            raise Rejected
        w = g.b.constant(torch.randint(0, 200, (2, x.fixed(1), 1, 1), generator=g.noise).to(torch.uint8))
        if kind == "ConvInteger":
            return g.b.ConvInteger(x.value, w, zero, pads=[g.rng.choice([0, 1])] * 4)
        bias = g.b.constant(torch.tensor([5, -7], dtype=torch.int32))
        out = g.b.constant(torch.tensor(0.4))
        return g.b.QLinearConv(x.value, scale, zero, w, scale, zero, out, zero, g.rng.choice([None, bias]))
    if x.rank != 2:
        raise Rejected
    w = g.b.constant(torch.randint(0, 200, (x.fixed(1), 3), generator=g.noise).to(torch.uint8))
    if kind == "MatMulInteger":
        return g.b.MatMulInteger(x.value, w, zero)
    return g.b.QLinearMatMul(x.value, scale, zero, w, scale, zero, g.b.constant(torch.tensor(0.3)), zero)
