"""Matches and near misses of constants that are added or multiplied, beside a layer and without one."""

import torch

from graphopt.ir import DType
from graphopt.passes.fuse import fuse_affine as A
from graphopt.passes.fuse import merge_affine as M
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


# -- constants beside a layer


@match(A.ConvScale, 2)
def conv_scaled(d):
    y = d.Conv(d.input("n", 4, 4, 4), d.weight(4, 4, 1, 1), d.weight(4))
    return d.Div(d.Mul(d.weight(4, 1, 1), y), d.full(3))


@match(A.ConvScale)
def transposed_grouped_conv_scaled(d):
    y = d.ConvTranspose(d.input("n", 4, 4), d.weight(4, 3, 2), group=2)
    return d.Mul(y, d.weight(1, 6, 1))


@miss(A.ConvScale, A.ConvShift, reason="no number per channel")
def constant_along_the_width_which_equals_the_channels(d):
    y = d.Conv(d.input("n", 4, 4, 4), d.weight(4, 4, 1, 1))
    z = d.Conv(d.input("n", 4, 4, 4), d.weight(4, 4, 1, 1))
    return d.Mul(y, d.weight(4)), d.Add(z, d.weight(4))


@match(A.ScaledShiftConv, 4)
def scale_and_shift_before_padding(d):
    x = d.input("n", 4, 5, 5)
    pads = {"pads": [1, 1, 1, 1]}
    one = d.Conv(d.Add(d.Mul(x, d.full(0.3)), d.full(0.7)), d.weight(3, 4, 3, 3), d.weight(3), **pads)
    per_channel = d.Add(d.Mul(x, d.weight(1, 4, 1, 1, positive=True)), d.weight(4, 1, 1))
    depthwise = d.Conv(per_channel, d.weight(4, 1, 3, 3), group=4, **pads)
    divided = d.Conv(d.Add(d.full(-2.0, 1), d.Div(x, d.full(0.6, 1))), d.weight(3, 4, 3, 3), auto_pad="SAME_UPPER")
    transposed = d.ConvTranspose(d.Add(d.Mul(x, d.full(2.5)), d.full(0.5)), d.weight(4, 3, 2, 2))
    return one, depthwise, divided, transposed


@miss(A.ScaledShiftConv, reason="the convolution takes both in")
def scale_and_shift_without_padding(d):
    x = d.input("n", 4, 5, 5)
    return d.Conv(d.Add(d.Mul(x, d.full(0.3)), d.full(0.7)), d.weight(3, 4, 3, 3))


@miss(A.ScaledShiftConv, reason="it multiplies with zero")
def scale_of_nothing(d):
    scaled = d.Mul(d.input("n", 4, 5, 5), d.constant(torch.tensor([1.0, 0.0, 2.0, 3.0]).reshape(4, 1, 1)))
    return d.Conv(d.Add(scaled, d.weight(4, 1, 1)), d.weight(3, 4, 3, 3), pads=[1, 1, 1, 1])


@miss(A.ScaledShiftConv, reason="larger than it is")
def scales_of_channels_and_one_shift(d):
    scaled = d.Mul(d.input("n", 4, 5, 5), d.weight(4, 1, 1, positive=True))
    return d.Conv(d.Add(scaled, d.full(0.5)), d.weight(3, 4, 3, 3), pads=[1, 1, 1, 1])


@miss(A.ScaledShiftConv, reason="stretch")
def shift_that_stretches_what_is_scaled(d):
    scaled = d.Mul(d.input(1, 4, 5, 5), d.full(0.5))
    return d.Conv(d.Add(scaled, d.weight(2, 4, 1, 1)), d.weight(3, 4, 3, 3), pads=[1, 1, 1, 1])


@miss(A.ScaledShiftConv, reason="used elsewhere")
def scaled_and_read_elsewhere(d):
    scaled = d.Mul(d.input("n", 4, 5, 5), d.full(0.5))
    return d.Conv(d.Add(scaled, d.full(0.5)), d.weight(3, 4, 3, 3), pads=[1, 1, 1, 1]), d.Relu(scaled)


def _gelu(d, x):
    """In primitives, as files of an older opset have it; the last of them is a scale."""
    erf = d.Erf(d.Div(x, d.full(2**0.5)))
    return d.Mul(d.Mul(x, d.Add(erf, d.full(1))), d.full(0.5))


@miss(A.ScaleConv, A.ScaleLinear, reason="last factor of a Gelu")
def layers_behind_a_gelu(d):
    x = d.input("n", 4, 4, 4)
    return d.Conv(_gelu(d, x), d.weight(4, 4, 1, 1)), d.MatMul(_gelu(d, x), d.weight(4, 4))


def _rms(d, x, square):
    return d.Div(x, d.Sqrt(d.Add(d.ReduceMean(square, [-1], keepdims=1), d.full(1e-6))))


@miss(A.ScaleLinear, reason="the scale of a norm")
def product_behind_a_norm(d):
    x = d.input("n", 6)
    return d.MatMul(d.Mul(_rms(d, x, d.Pow(x, d.full(2))), d.weight(6)), d.weight(6, 4))


@match(A.ScaleLinear)
def product_behind_what_is_no_norm(d):
    x = d.input("n", 6)
    return d.MatMul(d.Mul(_rms(d, x, d.Abs(x)), d.weight(6)), d.weight(6, 4))


@match(A.ScaleConv)
def conv_behind_what_is_no_gelu(d):
    x = d.input("n", 4, 4, 4)
    product = d.Mul(x, d.Add(d.Erf(x), d.full(1)))
    return d.Conv(d.Mul(product, d.full(0.5)), d.weight(4, 4, 1, 1))


@miss(M.MergeScales, reason="last factor of a Gelu")
def gelu_that_is_scaled(d):
    return d.Mul(_gelu(d, d.input("n", 4)), d.weight(4))


@miss(A.ConvScale, reason="no number per channel")
def scale_that_stretches_the_batch(d):
    return d.Mul(d.Conv(d.input(1, 4, 4, 4), d.weight(4, 4, 1, 1)), d.weight(2, 4, 1, 1))


@miss(A.ConvScale, reason="divides by zero")
def division_by_zero(d):
    return d.Div(d.Conv(d.input("n", 4, 4, 4), d.weight(4, 4, 1, 1)), d.full(0, 4, 1, 1))


@miss(A.ConvScale, A.LinearScale)
def constant_divided_by_a_layer(d):
    y = d.Conv(d.input("n", 4, 4, 4), d.weight(4, 4, 1, 1))
    return d.Div(d.full(1), y), d.Div(d.full(1), d.MatMul(d.input("n", 4), d.weight(4, 4)))


@match(A.ConvShift, 3)
def conv_shifted(d):
    y = d.Conv(d.input("n", 4, 4, 4), d.weight(4, 4, 3, 3), pads=[1, 1, 1, 1])
    return d.Sub(d.full(1), d.Sub(d.Add(y, d.weight(1, 4, 1, 1)), d.weight(4, 1, 1)))


@miss(A.ConvShift)
def conv_plus_something_computed(d):
    return d.Add(d.Conv(d.input("n", 4, 4, 4), d.weight(4, 4, 1, 1)), d.input(4, 1, 1))


@match(A.LinearScale, 3)
def products_scaled(d):
    y = d.Mul(d.Gemm(d.input("n", 4), d.weight(6, 4), d.weight(6), transB=1), d.weight(6))
    z = d.Add(d.MatMul(d.input("n", 3, 4), d.weight(4, 6)), d.weight(6))
    return y, d.Div(z, d.full(2)), d.Mul(d.MatMul(d.input(2, 4), d.weight(4, 6)), d.full(2))


@miss(A.LinearScale, A.LinearShift, reason="no number per channel")
def constant_along_the_rows(d):
    y = d.Mul(d.Gemm(d.input(6, 4), d.weight(4, 6)), d.weight(6, 1))
    return y, d.Add(d.Gemm(d.input(6, 4), d.weight(4, 6)), d.weight(6, 1))


@match(A.LinearShift, 2)
def products_shifted(d):
    y = d.Add(d.Gemm(d.input("n", 4), d.weight(4, 6)), d.weight(6))
    z = d.Add(d.MatMul(d.input("n", 3, 4), d.weight(4, 6)), d.weight(6))
    return y, d.Sub(d.full(1, 6), z)


@miss(A.LinearShift)
def bias_of_a_matmul(d):
    return d.Add(d.MatMul(d.input("n", 3, 4), d.weight(4, 6)), d.weight(6))


@match(A.ScaleConv, 2)
def scaled_conv(d):
    x = d.Div(d.input("n", 4, 4, 4), d.weight(4, 1, 1, positive=True))
    y = d.Mul(d.input("n", 4, 4), d.full(0.5))
    return (
        d.Conv(x, d.weight(4, 2, 3, 3), d.weight(4), group=2, pads=[1, 1, 1, 1]),
        d.ConvTranspose(y, d.weight(4, 3, 2), group=2),
    )


@miss(A.ScaleConv, A.ShiftConv, reason="no number per channel")
def conv_of_columns_scaled(d):
    x, y = d.input("n", 4, 4, 4), d.input("n", 4, 4, 4)
    w = d.weight(4, 4, 1, 1)
    return d.Conv(d.Mul(x, d.weight(4)), w), d.Conv(d.Add(y, d.weight(4)), w)


@miss(A.ScaleConv, A.ShiftConv, reason="may stretch")
def grey_image_that_a_constant_makes_coloured(d):
    x, w = d.input("n", 1, 5, 5), d.weight(4, 3, 3, 3)
    y = d.Conv(d.Add(x, d.weight(3, 1, 1)), w)
    return (
        d.Conv(d.Mul(x, d.weight(1, 3, 1, 1)), w),
        y,
        d.Conv(d.Mul(d.input(3, 5), d.full(2, 1, 1, 1)), d.weight(4, 3, 1)),
    )


@match(A.ShiftConv, 2)
def normalised_image(d):
    x = d.Sub(d.input("n", 3, 6, 6), d.weight(1, 3, 1, 1))
    return d.Conv(x, d.weight(6, 3, 3, 3)), d.Conv(d.Sub(d.full(1), d.input("n", 3, 5)), d.weight(3, 1, 2), group=3)


@miss(A.ShiftConv, reason="pads with zeros")
def shift_in_front_of_a_padded_conv(d):
    return d.Conv(d.Add(d.input("n", 3, 6, 6), d.full(1)), d.weight(6, 3, 3, 3), pads=[0, 0, 1, 0])


@match(A.ScaleLinear, 2)
def scaled_products(d):
    x = d.Mul(d.input("n", 3, 4), d.weight(4))
    return d.MatMul(x, d.weight(4, 6)), d.Gemm(d.Div(d.input("n", 4), d.full(2)), d.weight(6, 4), transB=1)


@miss(A.ScaleLinear, reason="no number per channel")
def rows_scaled_in_front_of_a_product(d):
    return d.MatMul(d.Mul(d.input("n", 4, 4), d.weight(4, 1)), d.weight(4, 6))


@miss(A.ScaleLinear, A.ShiftLinear, reason="may stretch")
def one_feature_that_a_constant_makes_three(d):
    x, w = d.input("n", 1), d.weight(3, 4)
    row = d.MatMul(d.Mul(d.input(3), d.weight(1, 3)), w)
    return d.MatMul(d.Mul(x, d.weight(3)), w), d.Gemm(d.Sub(d.weight(3), x), w), row


@match(A.ShiftLinear, 2)
def shifted_products(d):
    x = d.Add(d.input("n", 3, 4), d.weight(4))
    return d.MatMul(x, d.weight(4, 6)), d.Gemm(
        d.Sub(d.full(1), d.input("n", 4)), d.weight(4, 6), d.weight(6), alpha=2.0
    )


@miss(A.ShiftLinear)
def transposed_operand(d):
    return d.Gemm(d.Add(d.input(4, 2), d.weight(2)), d.weight(4, 6), transA=1)


@miss(A.ConvScale, A.ScaleConv, reason="out of the range")
def half_weights_that_would_lose_their_digits(d):
    x, c = d.input("n", 4, 3, 3, dtype=DType.FLOAT16), d.full(1e-5, dtype=torch.float16)
    w = d.full(1e-2, 4, 4, 1, 1, dtype=torch.float16)
    return d.Mul(d.Conv(x, w), c), d.Conv(d.Mul(x, c), w)


# -- constants without a layer


@match(M.MergeScales, 3)
def scales(d):
    x = d.Div(d.Mul(d.Mul(d.input("n", 4), d.weight(4)), d.full(2)), d.full(3))
    return x, d.Mul(
        d.Mul(d.input("n", 4, dtype=DType.INT64), d.full(3, dtype=torch.int64)), d.full(5, dtype=torch.int64)
    )


@miss(M.MergeScales)
def integer_divisions(d):
    x, three = d.input("n", 4, dtype=DType.INT64), d.full(3, dtype=torch.int64)
    return d.Mul(d.Div(x, three), three), d.Div(d.Mul(x, three), d.full(2, dtype=torch.int64))


@miss(M.MergeScales, M.MergeShifts, reason="larger than the two")
def outer_product_of_constants(d):
    a, b = d.weight(4, 1), d.weight(4)
    return d.Mul(d.Mul(d.input(4, 4), a), b), d.Add(d.Add(d.input(4, 4), a), b)


@miss(M.MergeScales, M.MergeShifts, reason="trainable")
def trained_constants(d):
    a, b = d.weight(4, name="a"), d.weight(4)
    return d.Mul(d.Mul(d.input(4, 4), a), b), d.Add(d.Add(d.input(4, 4), a), b)


@miss(M.MergeScales, reason="do not fit")
def scales_that_vanish_together(d):
    small = d.full(1e-30)
    return d.Mul(d.Mul(d.input("n", 4), small), small)


@miss(M.MergeScales, reason="do not fit")
def half_scales_that_would_lose_their_digits(d):
    x, c = d.input("n", 4, dtype=DType.FLOAT16), d.full(1e-3, dtype=torch.float16)
    return d.Mul(d.Mul(x, c), c)


@match(M.MergeShifts, 2)
def shifts(d):
    return d.Sub(d.Add(d.Sub(d.input("n", 4), d.weight(4)), d.full(2)), d.weight(1, 4))


@miss(M.MergeShifts, reason="unsigned")
def unsigned_shifts(d):
    two = d.full(2, dtype=torch.uint8)
    return d.Sub(d.Add(d.input("n", 4, dtype=DType.UINT8), two), two)


@miss(M.MergeShifts)
def constant_minus_something(d):
    return d.Add(d.Sub(d.weight(4), d.input("n", 4)), d.weight(4))
