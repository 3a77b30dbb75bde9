"""Matches and near misses of the rules about quantizers."""

import torch

from graphopt.ir import DType
from graphopt.passes.simplify import quantized as Q
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


def zero(d, number=3, dtype=torch.uint8, *shape):
    return d.full(number, *shape, dtype=dtype)


def integers(d, *shape, dtype=torch.int8):
    low, high = (0, 255) if dtype is torch.uint8 else (-128, 127)
    return d.constant(torch.randint(low, high + 1, shape, generator=d.generator).to(dtype))


def back(d, x, scale=0.1, number=3, dtype=torch.uint8, **attributes):
    return d.DequantizeLinear(x, d.full(scale), zero(d, number, dtype), **attributes)


def to(d, x, scale=0.1, number=3, dtype=torch.uint8, **attributes):
    return d.QuantizeLinear(x, d.full(scale), zero(d, number, dtype), **attributes)


@match(Q.DropRequantize, 3)
def quantized_again(d):
    x = to(d, d.input("n", d.size(4)), 0.037)
    y = to(d, back(d, x, 0.037), 0.037)
    vector = d.constant(torch.tensor([0.3, 0.001, 7.0]))
    z = d.QuantizeLinear(d.input("n", 3, 2), vector, zero(d, 0, torch.int8, 3), axis=1)
    again = d.DequantizeLinear(z, vector, zero(d, 0, torch.int8, 3), axis=1)
    plain = d.QuantizeLinear(d.input("n", 2), d.full(0.5))
    return (
        back(d, y, 0.037), d.Neg(again), d.QuantizeLinear(again, vector, zero(d, 0, torch.int8, 3), axis=1),
        d.QuantizeLinear(d.DequantizeLinear(plain, d.full(0.5)), d.full(0.5)),
    )  # fmt: skip


@miss(Q.DropRequantize, reason="differ")
def quantized_in_another_way(d):
    x = to(d, d.input("n", 4))
    square = d.input("n", 3, 3)
    vector, zeros = d.constant(torch.tensor([0.3, 0.1, 7.0])), zero(d, 0, torch.int8, 3)
    other = d.DequantizeLinear(d.QuantizeLinear(square, vector, zeros, axis=1), vector, zeros, axis=1)
    return (
        to(d, back(d, x), 0.2), to(d, back(d, x), number=4), to(d, back(d, x), dtype=torch.int8),
        d.QuantizeLinear(other, vector, zeros, axis=2),
    )  # fmt: skip


@miss(Q.DropRequantize, reason="too coarse")
def floats_that_cannot_tell_the_integers_apart(d):
    scale, none = d.full(0.1, dtype=torch.bfloat16), zero(d, 0, torch.uint8)
    q = d.QuantizeLinear(d.input("n", 4, dtype=DType.BFLOAT16), scale, none)
    tiny = d.full(1e-40)
    small = d.DequantizeLinear(d.QuantizeLinear(d.input("n", 4), tiny, none), tiny, none)
    return d.QuantizeLinear(d.DequantizeLinear(q, scale, none), scale, none), d.QuantizeLinear(small, tiny, none)


@match(Q.MoveIntegers, 4)
def views_between_quantizers(d):
    x = back(d, to(d, d.input("n", 4, 6)))
    y = back(d, to(d, d.input("n", 4, 6), number=-3, dtype=torch.int8), number=-3, dtype=torch.int8)
    x = to(d, d.Transpose(d.Reshape(x, [-1, 2, 2, 6]), perm=[0, 3, 1, 2]))
    y = d.Slice(d.Unsqueeze(y, [1]), [0], [2], [2])
    return back(d, x), to(d, y, number=-3, dtype=torch.int8)


@match(Q.MoveIntegers, 2)
def joined_and_pooled_integers(d):
    parts = [back(d, to(d, d.input("n", 4, 6, 6))) for _ in range(2)]
    y = d.MaxPool(d.Concat(*parts, axis=1), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    return back(d, to(d, y))


@miss(Q.MoveIntegers, reason="differ")
def views_between_different_quantizers(d):
    a, b = back(d, to(d, d.input("n", 4))), back(d, to(d, d.input("n", 4), 0.2), 0.2)
    return to(d, d.Concat(a, b, axis=1)), to(d, d.Reshape(back(d, to(d, d.input("n", 4))), [-1]), 0.3)


@miss(Q.MoveIntegers, reason="differ")
def views_of_what_has_a_scale_per_channel(d):
    vector, zeros = d.constant(torch.tensor([0.3, 0.1, 7.0])), zero(d, 0, torch.int8, 3)
    x = d.DequantizeLinear(d.QuantizeLinear(d.input("n", 3, 3), vector, zeros, axis=1), vector, zeros, axis=1)
    return d.QuantizeLinear(d.Transpose(x, perm=[0, 2, 1]), vector, zeros, axis=1)


@miss(Q.MoveIntegers)
def views_that_floats_are_read_of(d):
    x = back(d, to(d, d.input("n", 4)))
    y = d.Reshape(back(d, to(d, d.input("n", 4))), [-1])
    return to(d, d.Reshape(x, [-1])), d.Relu(x), to(d, y), d.Relu(y)


@match(Q.DropLimits, 3)
def limits_of_the_integers(d):
    x = d.input("n", d.size(4))
    return (
        to(d, d.Relu(x), 0.02, 0), to(d, d.Clip(x, d.full(0), d.full(6)), 6 / 256, 0),
        to(d, d.Clip(x, d.full(-20), None), 0.1, -128 + 10, torch.int8),
    )  # fmt: skip


@miss(Q.DropLimits, reason="beyond the limits")
def limits_within_the_integers(d):
    x = d.input("n", 4)
    return (
        to(d, d.Relu(x), 0.02, 1), to(d, d.Clip(x, d.full(0), d.full(6)), 6 / 255 + 1e-4, 0),
        to(d, d.Relu(x), 0.1, 0, torch.int8), to(d, d.Clip(x, d.full(1), d.full(-1)), 0.02, 0),
    )  # fmt: skip


@miss(Q.DropLimits, reason="used elsewhere")
def limits_that_are_read_elsewhere(d):
    x = d.Relu(d.input("n", 4))
    return to(d, x, 0.02, 0), d.Neg(x)


@match(Q.DequantizedTranspose, 2)
def transposed_weights(d):
    wide = d.DequantizeLinear(integers(d, d.size(5), 4), d.weight(4, positive=True), zero(d, 0, torch.int8, 4), axis=1)
    deep = d.DequantizeLinear(integers(d, 2, 3, 4), d.full(0.5))
    return d.MatMul(d.input("n", 4), d.Transpose(wide, perm=[1, 0])), d.Add(
        d.input(4, 3, 2), d.Transpose(deep, perm=[2, 1, 0])
    )


@miss(Q.DequantizedTranspose, reason="used elsewhere")
def weights_read_in_both_ways(d):
    w = integers(d, 4, 4)
    x = d.input("n", 4)
    return d.MatMul(x, d.Transpose(d.DequantizeLinear(w, d.full(0.5)))), d.MatMul(x, d.DequantizeLinear(w, d.full(0.5)))


@miss(Q.DequantizedTranspose, reason="blocks")
def weights_in_blocks(d):
    w = d.DequantizeLinear(integers(d, 4, 4), d.weight(2, 4, positive=True), axis=0, block_size=2)
    return d.MatMul(d.input("n", 4), d.Transpose(w, perm=[1, 0]))
