"""Writing by index against ONNX Runtime."""

import numpy as np
import pytest

from tests.ops.oracle import check

RNG = np.random.default_rng(0)
REDUCTIONS = ["none", "add", "mul", "max", "min"]


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_elements(axis, reduction):
    if reduction == "none":  # which of equal indices wins is not defined
        indices = RNG.random((3, 4, 5)).argsort(axis)
    else:
        indices = RNG.integers(-3, 3, (2, 4, 3))
    inputs = [array(3, 4, 5), indices, array(*indices.shape)]
    check("ScatterElements", inputs, symbolic={0: ("a", "b", "c")}, axis=axis, reduction=reduction)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int32])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd(depth, reduction, dtype):
    x = RNG.integers(-9, 9, (3, 4, 5)).astype(dtype)
    if reduction == "none":
        indices = np.array([[0, 1, 2], [2, 3, -1], [-2, 0, 4]])[:, :depth]
    else:
        indices = RNG.integers(-3, 3, (4, 2, depth))
    updates = RNG.integers(-9, 9, indices.shape[:-1] + x.shape[depth:]).astype(dtype)
    check("ScatterND", [x, indices, updates], symbolic={0: ("a", "b", "c")}, reduction=reduction)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 6, 4), -2), ((2, 6, 4), 1)])
def test_tensor_scatter(shape, axis, mode):
    update = list(shape)
    update[axis] = 2
    starts = np.array([0, 5 if mode == "circular" else 3])
    check("TensorScatter", [array(*shape), array(*update), starts], reference=True, axis=axis, mode=mode)
    check("TensorScatter", [array(*shape), array(*update)], reference=True, axis=axis, mode=mode)
