"""Reductions against ONNX Runtime."""

import numpy as np
import pytest
import torch

from graphopt.errors import ShapeError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import execute, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)
ALL = ["ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
       "ReduceLogSum", "ReduceLogSumExp"]  # fmt: skip


def array(*shape, dtype=np.float32):
    return (RNG.random(shape) + 0.5).astype(dtype)


def axes(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("op", ALL)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("over", [(1,), (0, 2), (-1,), (0, 1, 2), (-2, 0)])
def test_axes(op, keepdims, over):
    check(op, [array(2, 3, 4), axes(*over)], constant=[1], symbolic={0: ("n", 3, "w")}, keepdims=keepdims)


@pytest.mark.parametrize("op", ALL)
@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("empty", [False, True])
def test_no_axes(op, noop, empty):
    inputs = [array(2, 3) - 1.0 * (op in ("ReduceL1", "ReduceL2")), *([axes()] if empty else [])]
    # ONNX Runtime returns the input unchanged, against the definition: the outer function remains to be applied.
    check(op, inputs, constant=[1], reference=bool(noop), noop_with_empty_axes=noop)


@pytest.mark.parametrize("op", ALL)
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.float16])
def test_dtypes(op, dtype):
    x = RNG.integers(1, 4, (2, 3, 4)).astype(dtype)
    loose = {"rtol": 1e-2} if dtype == np.float16 else {}
    check(op, [x, axes(1)], constant=[1], reference=dtype == np.float16, **loose)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, bool])
def test_extremes_of_bytes(op, dtype):
    check(op, [RNG.integers(0, 2, (3, 4)).astype(dtype), axes(0)], constant=[1], keepdims=0)


@pytest.mark.parametrize(
    ("op", "dtype", "want"),
    [("ReduceSum", np.float32, 0), ("ReduceProd", np.float32, 1), ("ReduceMax", np.float32, -np.inf),
     ("ReduceMin", np.float32, np.inf), ("ReduceMax", np.int32, -(2**31)), ("ReduceMin", np.int8, 127),
     ("ReduceMax", bool, False), ("ReduceMin", bool, True), ("ReduceL1", np.float32, 0), ("ReduceL2", np.float32, 0),
     ("ReduceLogSum", np.float32, -np.inf), ("ReduceLogSumExp", np.float32, -np.inf)],
)  # fmt: skip
def test_empty_sets(op, dtype, want):
    x = np.zeros((2, 0, 3), dtype)
    _, node = graph_of(op, [x, axes(1)], constant=[1], keepdims=0)
    (got,) = execute(node, [torch.from_numpy(x), torch.tensor([1])])
    assert got.shape == (2, 3)
    assert (got.numpy() == want).all()


def test_scalar():
    check("ReduceSum", [np.array(3.0, np.float32)])
    check("ReduceL1", [np.array(-3.0, np.float32)], reference=True)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceSum", "ReduceMean", "ReduceLogSumExp"])
def test_infinities_and_nan(op):
    check(op, [np.array([[np.inf, 1], [-np.inf, 2], [np.nan, 3]], np.float32), axes(1)], constant=[1], keepdims=0)


def test_axes_that_are_not_constant():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", 3, 4)))
    over = graph.add_input("axes", TensorType(DType.INT64, (2,)))
    for keep, want in ((1, (None, None, None)), (0, (None,))):
        node = graph.append(Node("ReduceSum", [x, over], {"keepdims": keep}))
        assert record_of(node).infer(node) == [TensorType(DType.FLOAT32, want)]
        assert record_of(node).relate(node) is None
    unknown = graph.add_input("more", TensorType(DType.INT64, (None,)))
    node = graph.append(Node("ReduceSum", [x, unknown], {"keepdims": 0}))
    assert record_of(node).infer(node) == [TensorType(DType.FLOAT32)]


def test_axis_out_of_range():
    _, node = graph_of("ReduceSum", [array(2, 3), axes(2)], constant=[1])
    with pytest.raises(ShapeError, match="axis 2 is out of range"):
        record_of(node).infer(node)


def test_mean_normalises_over_what_it_reduces():
    _, node = graph_of("ReduceMean", [array(2, 3, 4), axes(-1, 1)], constant=[1])
    assert record_of(node).normalises(node) == (1, 2)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_arg(op, keepdims, last, axis):
    x = RNG.integers(0, 3, (4, 5, 6)).astype(np.float32)  # many ties
    check(op, [x], symbolic={0: ("n", 5, "w")}, axis=axis, keepdims=keepdims, select_last_index=last)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8, np.int8])
def test_arg_dtypes(dtype):
    check("ArgMax", [RNG.integers(0, 9, (4, 5)).astype(dtype)], axis=1)
