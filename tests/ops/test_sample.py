"""GridSample, AffineGrid, Col2Im against ONNX Runtime and onnx.reference."""

import numpy as np
import pytest

from tests.ops.oracle import check

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items):
    return np.array(items, dtype=np.int64)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [0, 1])
def test_grid_sample(mode, padding_mode, align_corners):
    x, grid = array(2, 3, 5, 6), RNG.uniform(-1.3, 1.3, (2, 4, 7, 2)).astype(np.float32)
    check(
        "GridSample", [x, grid], symbolic={0: ("n", 3, "h", "w"), 1: ("n", "a", "b", 2)}, mode=mode,
        padding_mode=padding_mode, align_corners=align_corners, atol=1e-4,
    )  # fmt: skip


def test_grid_sample_3d():
    check("GridSample", [array(1, 2, 3, 4, 5), RNG.uniform(-1, 1, (1, 2, 3, 4, 3)).astype(np.float32)])


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 3, 4, 5)])
def test_affine_grid(size, align_corners):
    rank = len(size) - 2
    check("AffineGrid", [array(2, rank, rank + 1), ints(*size)], constant=[1], align_corners=align_corners)


@pytest.mark.parametrize(
    ("image", "block", "attributes"),
    [((5, 5), (1, 5), {}), ((5, 6), (2, 3), {"pads": [1, 0, 2, 1]}), ((6, 6), (2, 2), {"strides": [2, 2]}),
     ((6, 7), (2, 2), {"dilations": [2, 3]}), ((5,), (2,), {}), ((4, 5, 4), (1, 2, 3), {"strides": [1, 1, 1]})],
)  # fmt: skip
def test_col2im(image, block, attributes):
    rank = len(image)
    pads, strides = attributes.get("pads", [0] * 2 * rank), attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    columns = np.prod([
        (image[d] + pads[d] + pads[d + rank] - dilations[d] * (block[d] - 1) - 1) // strides[d] + 1 for d in range(rank)
    ])  # fmt: skip
    x = array(2, 3 * np.prod(block), columns)
    check(
        "Col2Im",
        [x, ints(*image), ints(*block)],
        constant=[1, 2],
        symbolic={0: ("n", x.shape[1], "l")},
        **attributes,
    )
