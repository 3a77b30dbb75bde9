"""Matches and near misses of the rules that make one convolution of several."""

import torch

from graphopt.passes.fuse import fuse_branches as B
from graphopt.passes.fuse import fuse_conv_conv as C
from graphopt.passes.fuse import quantized as Q
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss
SAME = {"pads": [1, 1, 1, 1]}


def _x(d, channels=4, size=6):
    return d.input("n", channels, size, size)


# -- branches


@match(B.ConvPlusConv, 2)
def branches_of_repvgg(d):
    x = _x(d, d.size(4))
    c = x.shape[1]
    y = d.Add(d.Conv(x, d.weight(c, c, 3, 3), d.weight(c), **SAME), d.Conv(x, d.weight(c, c, 1, 1)))
    return d.Add(d.Conv(x, d.weight(c, c, 1, 3), d.weight(c), pads=[0, 1, 0, 1]), y)


@match(B.ConvPlusConv, 3)
def branches_with_strides_groups_and_dilations(d):
    x, y, z = _x(d), _x(d), d.input("n", 4, 9)
    strided = {"strides": [2, 2], "group": 2}
    a = d.Add(
        d.Conv(x, d.weight(6, 2, 5, 5), pads=[2, 2, 2, 2], **strided),
        d.Conv(x, d.weight(6, 2, 3, 3), **SAME, **strided),
    )
    depthwise = d.Conv(y, d.weight(4, 1, 1, 1), d.weight(4), group=4)
    b = d.Add(depthwise, d.Conv(y, d.weight(4, 4, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]))
    uneven = d.Conv(z, d.weight(4, 4, 3), pads=[2, 0])
    return a, b, d.Add(uneven, d.Conv(z, d.weight(4, 4, 1)))


@miss(B.ConvPlusConv, reason="in different ways")
def branches_that_move_differently(d):
    x = _x(d)
    wide = d.Conv(x, d.weight(4, 4, 3, 3), strides=[2, 2], **SAME)
    return d.Add(wide, d.Conv(x, d.weight(4, 4, 2, 2), strides=[2, 2])), d.Add(
        d.Conv(x, d.weight(4, 4, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]), d.Conv(x, d.weight(4, 4, 3, 3), **SAME)
    )


@miss(B.ConvPlusConv, reason="more multiplications")
def row_and_column(d):
    x = _x(d)
    row = d.Conv(x, d.weight(4, 4, 1, 3), pads=[0, 1, 0, 1])
    return d.Add(row, d.Conv(x, d.weight(4, 4, 3, 1), pads=[1, 0, 1, 0]))


@miss(B.ConvPlusConv, reason="broadcast")
def branch_of_one_channel(d):
    x = _x(d)
    return d.Add(d.Conv(x, d.weight(4, 4, 3, 3), **SAME), d.Conv(x, d.weight(1, 4, 1, 1)))


@miss(B.ConvPlusConv, reason="used elsewhere")
def branch_that_is_read_elsewhere(d):
    x = _x(d)
    y = d.Conv(x, d.weight(4, 4, 1, 1))
    return d.Add(d.Conv(x, d.weight(4, 4, 3, 3), **SAME), y), d.Relu(y)


@miss(B.ConvPlusConv, reason="taken twice")
def convolution_twice(d):
    y = d.Conv(_x(d), d.weight(4, 4, 3, 3))
    return d.Add(y, y)


@miss(B.ConvPlusConv, reason="size of the input")
def branches_that_pad_by_themselves(d):
    x = _x(d)
    y = d.Conv(x, d.weight(4, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    return d.Add(y, d.Conv(x, d.weight(4, 4, 1, 1), strides=[2, 2]))


@miss(B.ConvPlusConv)
def convolutions_of_two_inputs(d):
    return d.Add(d.Conv(_x(d), d.weight(4, 4, 1, 1)), d.Conv(_x(d), d.weight(4, 4, 1, 1)))


@match(B.ConvPlusIdentity, 3)
def identity_branches(d):
    c = d.size(2) * 2
    x, y, z = _x(d, c), _x(d, c), _x(d, c)
    a = d.Add(d.Conv(x, d.weight(c, c, 3, 3), **SAME), d.bn(x, c))
    b = d.Add(y, d.Conv(y, d.weight(c, c // 2, 3, 3), d.weight(c), group=2, **SAME))
    depthwise = d.Conv(z, d.weight(c, 1, 5, 5), group=c, pads=[4, 4, 4, 4], dilations=[2, 2])
    return a, b, d.Add(depthwise, d.Mul(z, d.weight(c, 1, 1)))


@miss(B.ConvPlusIdentity, reason="another number of channels")
def skip_around_a_narrow_convolution(d):
    x = _x(d, 4)
    return d.Add(d.Conv(x, d.weight(1, 4, 3, 3), **SAME), x)


@miss(B.ConvPlusIdentity, reason="in different ways")
def skips_around_convolutions_that_shrink(d):
    x = _x(d, 4, 1)
    return d.Add(x, d.Conv(x, d.weight(4, 4, 1, 1), strides=[2, 2])), d.Add(
        x, d.Conv(x, d.weight(4, 4, 1, 1), pads=[1, 1, 1, 1])
    )


@miss(B.ConvPlusIdentity, reason="no number per channel")
def skip_scaled_along_the_width(d):
    x = _x(d, 4, 4)
    return d.Add(d.Conv(x, d.weight(4, 4, 3, 3), **SAME), d.Mul(x, d.weight(4)))


@miss(B.ConvPlusIdentity)
def skip_of_something_else(d):
    x = _x(d)
    return d.Add(d.Conv(d.Relu(x), d.weight(4, 4, 3, 3), **SAME), x)


# -- chains


@match(C.ConvConv, 3)
def pointwise_in_front_and_behind(d):
    c = d.size(4)
    wide = d.Conv(_x(d, c), d.weight(4 * c, c, 3, 3), d.weight(4 * c), strides=[2, 1], pads=[1, 0, 1, 1])
    unpadded = d.Conv(d.Conv(_x(d), d.weight(9, 4, 1, 1), d.weight(9), strides=[2, 2]), d.weight(3, 9, 3, 3))
    padded = d.Conv(d.Conv(_x(d, 4, 7), d.weight(9, 4, 1, 1), strides=[2, 2]), d.weight(3, 9, 3, 3), **SAME)
    return d.Conv(wide, d.weight(2, 4 * c, 1, 1), d.weight(2)), unpadded, padded


@match(C.ConvConv, 4)
def grouped_chains(d):
    def depthwise(x, **attributes):
        return d.Conv(x, d.weight(4, 1, 3, 3), d.weight(4), group=4, **attributes)

    separable = d.Conv(depthwise(_x(d), dilations=[2, 2]), d.weight(1, 4, 1, 1), d.weight(1))
    scaled = d.Conv(depthwise(_x(d)), d.weight(4, 1, 1, 1), group=4)
    mixed = d.Conv(d.Conv(_x(d), d.weight(8, 2, 1, 1), d.weight(8), group=2), d.weight(4, 2, 3, 3), group=4)
    rows = d.Conv(d.Conv(_x(d), d.weight(4, 1, 1, 3), group=4, pads=[0, 1, 0, 1]), d.weight(1, 4, 1, 1))
    return separable, scaled, mixed, rows


@miss(C.ConvConv, reason="more multiplications")
def bottleneck_and_separable(d):
    x = _x(d, 8)
    narrow = d.Conv(d.Conv(x, d.weight(2, 8, 1, 1)), d.weight(8, 2, 1, 1))
    return narrow, d.Conv(d.Conv(_x(d), d.weight(4, 1, 3, 3), group=4), d.weight(8, 4, 1, 1))


@miss(C.ConvConv, reason="bias does not reach")
def bias_in_front_of_padding(d):
    return d.Conv(d.Conv(_x(d), d.weight(9, 4, 1, 1), d.weight(9)), d.weight(3, 9, 3, 3), **SAME)


@miss(C.ConvConv, reason="more than one element")
def large_kernels(d):
    y = d.Conv(d.Conv(_x(d), d.weight(9, 4, 3, 3)), d.weight(1, 9, 3, 3))
    return y, d.Conv(d.Conv(_x(d), d.weight(9, 4, 1, 1), pads=[1, 1, 1, 1]), d.weight(1, 9, 3, 3))


@miss(C.ConvConv)
def convolutions_with_an_activation_between(d):
    return d.Conv(d.Relu(d.Conv(_x(d), d.weight(9, 4, 3, 3))), d.weight(1, 9, 1, 1))


@match(C.PointwiseConvTranspose, 2)
def pointwise_beside_transposed(d):
    c = d.size(3)
    up = {"strides": [2, 2], "pads": [1, 0, 1, 0], "output_padding": [1, 0]}
    behind = d.Conv(
        d.ConvTranspose(_x(d, c), d.weight(c, 4, 3, 3), d.weight(4), **up), d.weight(2, 4, 1, 1), d.weight(2)
    )
    front = d.Conv(_x(d, c), d.weight(4 * c, c, 1, 1))
    return behind, d.ConvTranspose(front, d.weight(4 * c, 5, 3, 3), d.weight(5), **up)


@miss(C.PointwiseConvTranspose, reason="unevenly")
def bias_in_front_of_a_transposed_convolution(d):
    return d.ConvTranspose(d.Conv(_x(d), d.weight(8, 4, 1, 1), d.weight(8)), d.weight(8, 4, 3, 3))


@miss(C.PointwiseConvTranspose, reason="more than one element")
def wide_or_padded_beside_transposed(d):
    x = _x(d)
    padded = d.Conv(x, d.weight(8, 4, 1, 1), pads=[1, 1, 1, 1])
    return d.Conv(d.ConvTranspose(x, d.weight(4, 8, 3, 3)), d.weight(2, 8, 3, 3)), d.ConvTranspose(
        padded, d.weight(8, 4, 3, 3)
    )


@miss(C.PointwiseConvTranspose, reason="more multiplications")
def pointwise_that_widens(d):
    return d.Conv(d.ConvTranspose(_x(d), d.weight(4, 2, 3, 3)), d.weight(9, 2, 1, 1))


# -- quantized weights


def _stored(d, *shape, axis=None, scale=None):
    integers = d.constant(torch.randint(-127, 128, shape, generator=d.generator).to(torch.int8))
    if axis is None:
        return d.DequantizeLinear(integers, d.full(0.01), d.full(2, dtype=torch.int8))
    zeros = d.full(0, shape[axis], dtype=torch.int8)
    return d.DequantizeLinear(integers, d.weight(shape[axis], positive=True), zeros, axis=axis)


@match(Q.QuantizedConvBatchNorm, 3)
def quantized_convolutions_with_bn(d):
    c = d.size(4)
    x = _x(d, c)
    vector = d.Conv(x, _stored(d, 6, c, 3, 3, axis=0), d.weight(6), **SAME)
    turned = d.ConvTranspose(x, _stored(d, c, 5, 2, 2, axis=1), strides=[2, 2])
    return d.bn(vector, 6), d.bn(d.Conv(x, _stored(d, 5, c, 1, 1)), 5), d.bn(turned, 5)


@miss(Q.QuantizedConvBatchNorm, reason="not positive")
def bn_that_turns_signs(d):
    y = d.Conv(_x(d), _stored(d, 6, 4, 3, 3, axis=0))
    vectors = [d.full(-1, 6), d.weight(6), d.weight(6), d.weight(6, positive=True)]
    return d.BatchNormalization(y, *vectors)


@miss(Q.QuantizedConvBatchNorm, reason="do not go with the output")
def scales_of_the_input_channels(d):
    return d.bn(d.Conv(_x(d), _stored(d, 4, 4, 3, 3, axis=1)), 4)


@miss(Q.QuantizedConvBatchNorm, reason="used elsewhere")
def quantized_weights_of_two_layers(d):
    x, w = _x(d), _stored(d, 4, 4, 1, 1, axis=0)
    return d.bn(d.Conv(x, w), 4), d.Conv(d.Relu(x), w)
