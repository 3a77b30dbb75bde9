"""Convolutions against ONNX Runtime."""

import numpy as np
import pytest

from tests.ops.oracle import check

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [1, 0, 2, 1]}, {"strides": [2, 3]}, {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
     {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"}],
)  # fmt: skip
def test_conv2d(group, attributes):
    x, w, b = array(2, 4, 9, 8), array(8, 4 // group, 3, 3), array(8)
    check("Conv", [x, w, b], symbolic={0: ("n", 4, "h", "w")}, group=group, **attributes)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_other_ranks(rank):
    check("Conv", [array(1, 3, *[6] * rank), array(5, 3, *[3] * rank)])
