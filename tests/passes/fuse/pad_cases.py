"""Matches and near misses of padding that a convolution or an average takes over."""

from graphopt.passes.fuse import fuse_pad as P
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


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
