"""Matches and near misses of what is done with BatchNormalization: behind, in front, and without a layer."""

import torch

from graphopt.ir import DType
from graphopt.passes.fuse import fuse_affine as A
from graphopt.passes.fuse import fuse_bn_chain as N
from graphopt.passes.fuse import fuse_bn_conv as B
from graphopt.passes.fuse import fuse_conv_bn as F
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


@miss(F.ConvBatchNorm, reason="out of the range")
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


# -- BatchNormalization without a layer


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
