"""Resize against ONNX Runtime, and against onnx.reference where ONNX Runtime has no kernel."""

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ir import dims as D
from graphopt.ops import record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)
COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items):
    return np.array(items, dtype=np.int64)


def floats(*items):
    return np.array(items, dtype=np.float32)


def resize(x, scales=None, sizes=None, roi=None, **attributes):
    inputs = [x, roi, None if scales is None else floats(*scales), None if sizes is None else ints(*sizes)]
    while inputs[-1] is None:
        inputs.pop()
    return check("Resize", inputs, constant=[1, 2, 3], **attributes)


@pytest.mark.parametrize("nearest_mode", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 0.7, 1.7), (1, 1, 0.5, 3)])
def test_nearest(coordinates, nearest_mode, scales):
    # (an odd extent would put a position of half_pixel_symmetric on the edge between two elements)
    resize(array(1, 2, 4, 6), scales, coordinate_transformation_mode=coordinates, nearest_mode=nearest_mode)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 0.6, 1.7), (1, 1, 0.2, 3)])
def test_interpolation(coordinates, mode, scales):
    resize(array(1, 2, 5, 6), scales, coordinate_transformation_mode=coordinates, mode=mode)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(1, 2, 10, 12), (1, 2, 1, 9), (1, 2, 3, 3)])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "pytorch_half_pixel"])
def test_sizes(mode, sizes, coordinates):
    resize(array(1, 2, 5, 6), sizes=sizes, mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("a", [-0.75, -0.5])
def test_cubic_that_excludes_the_outside(coordinates, a):
    x = array(1, 1, 5, 6)
    how = {
        "mode": "cubic",
        "exclude_outside": 1,
        "cubic_coeff_a": a,
        "coordinate_transformation_mode": coordinates,
    }
    resize(x, (1, 1, 0.8, 1.7), **how)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize("scales", [(1, 1, 0.6, 0.4), (1, 1, 0.5, 2.0)])
def test_antialias(mode, exclude, scales):
    # onnx.reference defines it; ONNX Runtime always leaves out what is outside
    resize(array(1, 1, 8, 9), scales, mode=mode, antialias=1, exclude_outside=exclude, reference=True)


def test_antialias_as_onnx_runtime():
    for mode in ("linear", "cubic"):
        resize(array(1, 2, 8, 9), (1, 1, 0.5, 0.4), mode=mode, antialias=1, exclude_outside=1)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("roi", [(0, 0, 0.2, 0.1, 1, 1, 0.8, 0.7), (0, 0, -0.2, 0.3, 1, 1, 0.5, 1.3)])
def test_crop_and_resize(mode, roi):
    how = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    resize(array(1, 1, 6, 5), sizes=(1, 1, 4, 7), roi=floats(*roi), **how)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_aspect_ratio(policy):
    resize(array(1, 2, 5, 8), sizes=(7, 9), axes=[2, 3], keep_aspect_ratio_policy=policy, mode="linear")


def test_axes():
    resize(array(2, 4, 5), (2.0,), axes=[2], reference=True)
    resize(array(1, 2, 4, 5), (2.0, 1.5), axes=[-2, -1])
    resize(array(2, 4, 5), sizes=(8, 3), axes=[2, 1], mode="linear", reference=True)


@pytest.mark.parametrize("shape", [(6,), (1, 1, 4, 4, 4), (4, 5)])
def test_ranks(shape):
    resize(
        array(*shape),
        [1.5] * len(shape) if len(shape) < 3 else (1, 1, 2, 1.5, 0.5),
        mode="linear",
        reference=True,
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64, np.float16])
def test_dtypes(dtype):
    resize(RNG.integers(0, 100, (1, 1, 4, 4)).astype(dtype), (1, 1, 2, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_linear_of_integers(dtype):
    x = RNG.integers(0, 100, (1, 1, 4, 4)).astype(dtype)
    resize(x, (1, 1, 1.7, 0.6), mode="linear")


@pytest.mark.parametrize(
    ("scales", "sizes", "attributes", "want"),
    [((1, 1, 2, 2), None, {}, ["n", "c", "2*h", "2*w"]),
     ((1, 1, 0.5, 1.5), None, {}, ["n", "c", "floor(h/2)", "floor(3*w/2)"]),
     (None, (7, 9), {"axes": [2, 3]}, ["n", "c", "7", "9"]),
     (None, (7, 9), {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}, ["n", "c", "?", "?"]),
     ((1, 1, 0.3, 1), None, {}, ["n", "c", "?", "w"])],
)  # fmt: skip
def test_symbolic_sizes(scales, sizes, attributes, want):
    inputs = [
        array(1, 1, 4, 4),
        None,
        None if scales is None else floats(*scales),
        None if sizes is None else ints(*sizes),
    ]
    _, node = graph_of("Resize", inputs, 1, [2, 3], {0: ("n", "c", "h", "w")}, **attributes)
    assert list(map(D.format_dim, record_of(node).infer(node)[0].shape)) == want


def test_rejects():
    _, node = graph_of("Resize", [array(2, 3), None, floats(1.0)], 1, [2])
    with pytest.raises(ShapeError, match="1 scales or sizes for 2 axes"):
        record_of(node).infer(node)
