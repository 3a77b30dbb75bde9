"""Matches and near misses of the rules of `fuse`."""

import torch

from graphopt.ir import DType
from graphopt.passes.fuse import fuse_affine as A
from graphopt.passes.fuse import fuse_bn_chain as N
from graphopt.passes.fuse import fuse_bn_conv as B
from graphopt.passes.fuse import fuse_conv_bn as F
from graphopt.passes.fuse import fuse_gemm as G
from graphopt.passes.fuse import fuse_linear as L
from graphopt.passes.fuse import fuse_pad as P
from graphopt.passes.fuse import merge_affine as M
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


# -- BatchNormalization behind


@match(F.ConvBatchNorm)
def conv_bn(d):
    return d.bn(d.Conv(d.input("n", 4, 6, 6), d.weight(8, 4, 3, 3), pads=[1, 1, 1, 1]), 8, epsilon=1e-3)


@match(F.ConvBatchNorm)
def grouped_conv_with_bias_bn(d):
    return d.Relu(d.bn(d.Conv(d.input("n", 4, 6, 6), d.weight(6, 2, 3, 3), d.weight(6), group=2, strides=[2, 2]), 6))


@match(F.ConvBatchNorm)
def depthwise_conv1d_bn(d):
    return d.bn(d.Conv(d.input("n", 4, 9), d.weight(4, 1, 3), group=4, auto_pad="SAME_UPPER"), 4)


@match(F.ConvBatchNorm)
def transposed_conv_bn(d):
    y = d.ConvTranspose(d.input("n", 4, 5, 5), d.weight(4, 3, 3, 3), d.weight(6), group=2, strides=[2, 2])
    return d.bn(y, 6)


@match(F.ConvBatchNorm, 2)
def small_bias_shared_by_two_convs(d):
    x, zeros = d.input("n", 4, 5, 5), d.full(0, 4)
    return [d.bn(d.Conv(x, d.weight(4, 4, 1, 1), zeros), 4) for _ in range(2)]


@miss(F.ConvBatchNorm, reason="used elsewhere")
def conv_read_twice(d):
    y = d.Conv(d.input("n", 4, 5, 5), d.weight(4, 4, 1, 1))
    return d.bn(y, 4), d.Relu(y)


@miss(F.ConvBatchNorm, reason="output of the graph")
def conv_that_is_an_output(d):
    y = d.Conv(d.input("n", 4, 5, 5), d.weight(4, 4, 1, 1))
    return d.bn(y, 4), y


@miss(F.ConvBatchNorm, reason="shared")
def large_weight_shared_with_an_unfused_conv(d):
    x, w = d.input("n", 16, 5, 5), d.weight(16, 16, 3, 3)
    return d.bn(d.Conv(x, w), 16), d.Relu(d.Conv(x, w, strides=[2, 2]))


@miss(F.ConvBatchNorm, reason="shared")
def parameter_shared_with_an_unfused_conv(d):
    x, w = d.input("n", 4, 5, 5), d.weight(4, 4, 1, 1, name="conv.weight")
    return d.bn(d.Conv(x, w), 4), d.Relu(d.Conv(x, w, strides=[2, 2]))


@miss(F.ConvBatchNorm)
def bn_that_trains(d):
    y = d.Conv(d.input("n", 4, 5, 5), d.weight(4, 4, 1, 1))
    vectors = [d.weight(4, positive=True) for _ in range(4)]
    return d.BatchNormalization(y, *vectors, training_mode=1, outputs=3)


@miss(F.ConvBatchNorm)
def bn_with_computed_scale(d):
    y = d.Conv(d.input("n", 4, 5, 5), d.weight(4, 4, 1, 1))
    return d.BatchNormalization(y, d.input(4), *(d.weight(4, positive=True) for _ in range(3)))


@miss(F.ConvBatchNorm, A.ConvScale, B.BatchNormConv)
def weight_that_a_caller_may_override(d):
    w = d.input(4, 4, 1, 1, default=torch.ones(4, 4, 1, 1))
    return d.bn(d.Mul(d.Conv(d.bn(d.input("n", 4, 5, 5), 4), w), d.full(2)), 4)


@miss(F.ConvBatchNorm, reason="exceed")
def half_precision_that_would_overflow(d):
    x, w = d.input("n", 1, 2, 2, dtype=DType.FLOAT16), d.full(1000, 1, 1, 1, 1, dtype=torch.float16)
    vectors = [d.full(v, 1, dtype=torch.float16) for v in (1000, 0, 0, 1)]
    return d.BatchNormalization(d.Conv(x, w), *vectors)


@match(F.LinearBatchNorm)
def gemm_bn(d):
    return d.bn(d.Gemm(d.input("n", 4), d.weight(6, 4), d.weight(6), transB=1, alpha=0.5, beta=2.0), 6)


@match(F.LinearBatchNorm)
def matmul_bn(d):
    return d.bn(d.MatMul(d.input("n", 4), d.weight(4, 6)), 6)


@match(F.LinearBatchNorm)
def matmul_of_transposed_parameter_and_bias_bn(d):
    w = d.Transpose(d.weight(6, 4, name="fc.weight"), perm=[1, 0])
    return d.bn(d.Add(d.weight(6, name="fc.bias"), d.MatMul(d.input("n", 4), w)), 6)


@miss(F.LinearBatchNorm, reason="another dimension")
def matmul_bn_over_the_sequence(d):
    return d.bn(d.MatMul(d.input("n", 6, 4), d.weight(4, 6)), 6)


@miss(F.LinearBatchNorm, reason="bias is no number per channel")
def gemm_with_a_bias_per_row_bn(d):
    return d.bn(d.Gemm(d.input(6, 4), d.weight(4, 6), d.weight(6, 1)), 6)


# -- BatchNormalization in front


@match(B.BatchNormConv)
def bn_conv_without_pads(d):
    return d.Conv(d.bn(d.input("n", 4, 6, 6), 4), d.weight(6, 2, 3, 3), group=2, pads=[0, 0, 0, 0])


@match(B.BatchNormConv)
def bn_without_shift_in_front_of_a_padded_conv(d):
    x, zero = d.input("n", 4, 6, 6), d.full(0, 4)
    y = d.BatchNormalization(x, d.weight(4), zero, zero, d.weight(4, positive=True))
    return d.Conv(y, d.weight(6, 4, 3, 3), d.weight(6), pads=[1, 1, 1, 1])


@miss(B.BatchNormConv, reason="pads with zeros")
def bn_in_front_of_a_padded_conv(d):
    x = d.bn(d.input("n", 4, 6, 6), 4)
    return d.Conv(x, d.weight(6, 4, 3, 3), pads=[1, 1, 1, 1])


@miss(B.BatchNormConv, reason="pads with zeros")
def bn_in_front_of_an_automatically_padded_conv(d):
    return d.Conv(d.bn(d.input("n", 4, 6, 6), 4), d.weight(6, 4, 3, 3), auto_pad="SAME_LOWER")


@miss(B.BatchNormConv, reason="unevenly")
def bn_in_front_of_a_transposed_conv(d):
    return d.ConvTranspose(d.bn(d.input("n", 4, 6, 6), 4), d.weight(4, 6, 3, 3))


@match(B.BatchNormLinear)
def bn_gemm(d):
    return d.Gemm(d.bn(d.input("n", 4), 4), d.weight(4, 6), d.weight(1, 6), alpha=0.5, beta=3.0)


@match(B.BatchNormLinear)
def bn_matmul(d):
    return d.MatMul(d.bn(d.input("n", 4), 4), d.weight(4, 6))


@miss(B.BatchNormLinear, reason="another dimension")
def bn_over_the_sequence_in_front_of_a_matmul(d):
    return d.MatMul(d.bn(d.input("n", 4, 4), 4), d.weight(4, 6))


# -- constants beside


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


@match(A.ShiftLinear, 2)
def shifted_products(d):
    x = d.Add(d.input("n", 3, 4), d.weight(4))
    return d.MatMul(x, d.weight(4, 6)), d.Gemm(
        d.Sub(d.full(1), d.input("n", 4)), d.weight(4, 6), d.weight(6), alpha=2.0
    )


@miss(A.ShiftLinear)
def transposed_operand(d):
    return d.Gemm(d.Add(d.input(4, 2), d.weight(2)), d.weight(4, 6), transA=1)


# -- pads


@match(P.PadConv, 2)
def pad_conv(d):
    x = d.Pad(d.input("n", 2, 5, 5), [0, 0, 1, 0, 0, 0, 2, 1], d.full(0))
    y = d.Pad(d.input("n", 2, 5, 5), [1, 2], None, [-1])
    w = d.weight(3, 2, 3, 3)
    return d.Conv(x, w, d.weight(3), pads=[0, 1, 1, 0]), d.Conv(y, w, auto_pad="VALID", strides=[2, 1])


@miss(P.PadConv, P.PadAveragePool)
def pad_with_other_than_zero(d):
    x = d.Pad(d.input("n", 2, 5, 5), [0, 0, 1, 1, 0, 0, 1, 1], d.full(1))
    y = d.Pad(d.input("n", 2, 5, 5), [0, 0, 1, 1, 0, 0, 1, 1], mode="reflect")
    return d.Conv(x, d.weight(3, 2, 3, 3)), d.AveragePool(y, kernel_shape=[3, 3])


@miss(P.PadConv, reason="batch or the channels")
def pad_of_channels(d):
    return d.Conv(d.Pad(d.input("n", 2, 5, 5), [0, 1, 0, 0, 0, 0, 0, 0]), d.weight(3, 3, 3, 3))


@miss(P.PadConv, reason="crops")
def pad_that_crops(d):
    return d.Conv(d.Pad(d.input("n", 2, 5, 5), [0, 0, -1, 0, 0, 0, 1, 0]), d.weight(3, 2, 3, 3))


@miss(P.PadConv, reason="size of the input")
def pad_in_front_of_automatic_pads(d):
    x = d.Pad(d.input("n", 2, 5, 5), [0, 0, 1, 1, 0, 0, 1, 1])
    return d.Conv(x, d.weight(3, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])


@miss(P.PadConv, P.PadAveragePool)
def pad_in_front_of_a_max(d):
    return d.MaxPool(d.Pad(d.input("n", 2, 5, 5), [0, 0, 1, 1, 0, 0, 1, 1]), kernel_shape=[3, 3])


@match(P.PadAveragePool, 2)
def pad_average(d):
    x, y = (d.Pad(d.input("n", 2, 5, 5), [0, 0, 1, 1, 0, 0, 1, 1]) for _ in range(2))
    return d.AveragePool(x, kernel_shape=[3, 3]), d.AveragePool(
        y, kernel_shape=[4, 4], pads=[1, 0, 1, 0], count_include_pad=1
    )


@miss(P.PadAveragePool, reason="leaves its own pads out")
def pad_in_front_of_an_average_that_leaves_its_pads_out(d):
    x = d.Pad(d.input("n", 2, 5, 5), [0, 0, 1, 1, 0, 0, 1, 1])
    return d.AveragePool(x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


@miss(P.PadAveragePool, reason="as large as the window")
def pad_larger_than_the_window(d):
    return d.AveragePool(d.Pad(d.input("n", 2, 5, 5), [0, 0, 2, 2, 0, 0, 2, 2]), kernel_shape=[2, 2])


@miss(P.PadAveragePool)
def pad_in_front_of_an_average_that_rounds_up(d):
    x = d.Pad(d.input("n", 2, 5, 5), [0, 0, 1, 1, 0, 0, 1, 1])
    return d.AveragePool(x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)


# -- matrix products


@match(G.MatMulAdd, 2)
def matmul_add(d):
    y = d.Add(d.MatMul(d.input("n", 4), d.weight(4, 6)), d.weight(6))
    w = d.Transpose(d.weight(6, 4, name="fc.weight"), perm=[1, 0])
    return y, d.Add(d.weight(6, name="fc.bias"), d.MatMul(d.input("n", 4), w))


@match(G.MatMulAdd)
def matmul_add_of_computed_operands(d):
    return d.Add(d.MatMul(d.input("n", 4), d.input(4, 6)), d.input("n", 6))


@miss(G.MatMulAdd)
def batched_matmul_add(d):
    return d.Add(d.MatMul(d.input("n", 3, 4), d.weight(4, 6)), d.weight(6))


@miss(G.MatMulAdd, reason="stretches")
def matmul_plus_what_stretches_it(d):
    return d.Add(d.MatMul(d.input(1, 4), d.weight(4, 6)), d.weight(3, 6))


@miss(G.MatMulAdd, reason="no bias")
def linear_layer_plus_a_skip(d):
    x = d.input("n", 4)
    return d.Add(d.MatMul(x, d.weight(4, 4)), x)


@miss(G.MatMulAdd)
def integer_matmul_add(d):
    x = d.input("n", 4, dtype=DType.INT32)
    return d.Add(d.MatMul(x, d.full(2, 4, 6, dtype=torch.int32)), d.full(1, 6, dtype=torch.int32))


@match(L.LinearLinear, 2)
def linear_chain(d):
    x = d.Gemm(d.input("n", 4), d.weight(8, 4), d.weight(8), transB=1)
    y = d.Add(d.MatMul(d.input("n", 3, 4), d.weight(4, 8)), d.weight(8))
    return d.Gemm(x, d.weight(8, 4), d.weight(4), alpha=0.5), d.Add(d.MatMul(y, d.weight(8, 3)), d.weight(3))


@match(L.LinearLinear, 2)
def three_linears_of_transposed_parameters(d):
    x = d.input("n", 3, 4)
    for i in range(3):
        w = d.Transpose(d.weight(4, 4, name=f"fc{i}.weight"), perm=[1, 0])
        x = d.Add(d.MatMul(x, w), d.weight(4, name=f"fc{i}.bias"))
    return x


@miss(L.LinearLinear, reason="more multiplications")
def bottleneck(d):
    return d.MatMul(d.MatMul(d.input("n", 8), d.weight(8, 2)), d.weight(2, 8))


@miss(L.LinearLinear)
def linears_with_an_activation_between(d):
    return d.MatMul(d.Relu(d.MatMul(d.input("n", 4), d.weight(4, 4))), d.weight(4, 4))


# -- BatchNormalization and constants without a layer


@match(N.BatchNormBatchNorm)
def bn_bn(d):
    return d.bn(d.bn(d.input("n", 4, 3, 3), 4, epsilon=0.1), 4)


@miss(N.BatchNormBatchNorm, reason="used elsewhere")
def bn_read_twice(d):
    y = d.bn(d.input("n", 4, 3, 3), 4)
    return d.bn(y, 4), d.Relu(y)


@match(N.BatchNormScale)
def bn_scaled(d):
    return d.Mul(d.bn(d.input("n", 4, 3, 3), 4), d.weight(4, 1, 1))


@match(N.BatchNormShift)
def bn_shifted(d):
    return d.Sub(d.weight(4, 1, 1), d.bn(d.input("n", 4, 3, 3), 4))


@miss(N.BatchNormScale, N.BatchNormShift, reason="no number per channel")
def bn_with_constants_along_the_width(d):
    y, z = d.bn(d.input("n", 4, 3, 4), 4), d.bn(d.input("n", 4, 3, 4), 4)
    return d.Mul(y, d.weight(4)), d.Add(z, d.weight(4))


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
