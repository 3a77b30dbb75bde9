"""Expand and Tile against ONNX Runtime."""

import numpy as np
import pytest

from tests.ops.oracle import check

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items):
    return np.array(items, dtype=np.int64)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((3, 1), (3, 4)),
        ((3, 1), (2, 1, 6)),
        ((2, 3), (1, 1)),
        ((3,), (2, 3)),
        ((), (2, 2)),
        ((1, 3), ()),
        ((1,), (0,)),
    ],
)
def test_expand(shape, target):
    check("Expand", [array(*shape), ints(*target)], constant=[1])


def test_expand_symbolic():
    check("Expand", [array(2, 1, 4), ints(1, 3, 1)], constant=[1], symbolic={0: ("n", 1, "c")})


@pytest.mark.parametrize(("shape", "repeats"), [((2, 3), (2, 3)), ((2, 3), (1, 0)), ((), ()), ((2, 1, 3), (1, 4, 1))])
def test_tile(shape, repeats):
    check("Tile", [array(*shape), ints(*repeats)], constant=[1], symbolic={0: tuple("abc"[: len(shape)])})
