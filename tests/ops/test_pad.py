"""Pad and CenterCropPad against ONNX Runtime."""

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ops import record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items):
    return np.array(items, dtype=np.int64)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 0, 0, 3, 1), (0, 0, 0, 0, 0, 0, 0, 2), (1, 1, 1, 1, 1, 1, 1, 1)])
def test_pad(mode, pads):
    check("Pad", [array(2, 3, 5, 4), ints(*pads)], constant=[1], symbolic={0: ("n", "c", "h", "w")}, mode=mode)


@pytest.mark.parametrize("axes", [(1,), (-1, 0)])
def test_pad_of_some_axes(axes):
    pads = ints(*range(1, 2 * len(axes) + 1))
    check(
        "Pad",
        [array(2, 5), pads, np.array(1.5, np.float32), ints(*axes)],
        constant=[1, 3],
        symbolic={0: ("n", "c")},
    )


def test_pad_crops():
    check("Pad", [array(5, 6), ints(-1, 2, -2, -1)], constant=[1], symbolic={0: ("a", "b")})


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.int32, np.uint8, np.float64])
def test_pad_value_keeps_the_dtype(dtype):
    value = np.array(2**60 + 1 if dtype is np.int64 else 1).astype(dtype)
    check("Pad", [np.zeros((2, 2), dtype), ints(1, 0, 0, 1), value], constant=[1])


def test_pad_rejects():
    _, node = graph_of("Pad", [array(2, 2), ints(1, 1)], 1, [1])
    with pytest.raises(ShapeError, match="2 pads for 2 axes"):
        record_of(node).infer(node)


@pytest.mark.parametrize("target", [(5, 3), (4, 8), (7, 6), (1, 9)])
def test_center_crop_pad(target):
    check("CenterCropPad", [array(5, 6), ints(*target)], constant=[1], symbolic={0: ("a", "b")})


def test_center_crop_pad_of_some_axes():
    check(
        "CenterCropPad",
        [array(2, 5, 6), ints(4, 9)],
        constant=[1],
        symbolic={0: ("n", "a", "b")},
        axes=[-1, 1],
    )
