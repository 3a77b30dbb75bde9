"""Reading by index against ONNX Runtime."""

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ops import record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items, dtype=np.int64):
    return np.array(items, dtype=dtype)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(
    "indices", [ints(0, 2, -1), ints(1, dtype=np.int32), np.array(2), ints([0, 1], [2, 2]), ints()]
)
def test_gather(axis, indices):
    check("Gather", [array(3, 4, 5), indices], constant=[1], symbolic={0: ("a", "b", "c")}, axis=axis)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.float16, np.int64, np.uint32])
def test_gather_keeps_the_dtype(dtype):
    check("Gather", [RNG.integers(0, 2, (4, 3)).astype(dtype), ints(3, 1)])


def test_gather_rejects_indices_out_of_range():
    _, node = graph_of("Gather", [array(3), ints(3)], 1, [1])
    with pytest.raises(ShapeError, match="out of range"):
        record_of(node).infer(node)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis):
    check(
        "GatherElements",
        [array(3, 4, 5), RNG.integers(-3, 3, (2, 4, 3))],
        symbolic={1: ("a", "b", "c")},
        axis=axis,
    )


@pytest.mark.parametrize(
    ("shape", "indices", "batch_dims"),
    [((3, 4, 5), (2, 1), 0), ((3, 4, 5), (2, 2, 2), 0), ((3, 4, 5), (2, 3), 0), ((3, 4, 5), (3, 2, 1), 1),
     ((2, 3, 4, 5), (2, 3, 6, 1), 2), ((2, 3, 4), (2, 1), 1)],
)  # fmt: skip
def test_gather_nd(shape, indices, batch_dims):
    names = tuple("abcde"[: len(indices) - 1])
    check(
        "GatherND", [array(*shape), RNG.integers(-2, 2, indices)], symbolic={1: (*names, indices[-1])},
        batch_dims=batch_dims,
    )  # fmt: skip
