"""Softmax, running sums and products, and TopK against ONNX Runtime."""

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ir import dims as D
from graphopt.ops import record_of
from graphopt.ops.infer import object_array
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return (2 * RNG.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, -2])
def test_softmax(op, axis):
    check(op, [array(2, 3, 4)], symbolic={0: ("n", 3, "w")}, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_softmax_dtypes(op, dtype):
    check(op, [array(2, 5, dtype=dtype)], rtol=1e-2 if dtype == np.float16 else 1e-6)


def test_softmax_of_large_numbers():
    check("Softmax", [np.array([[1000, 1001], [-1000, -np.inf]], np.float32)])


def test_hardmax_marks_the_first_of_equals():
    check("Hardmax", [np.array([[1, 3, 3], [2, 2, 1]], np.float32)])


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running(op, axis, exclusive, reverse):
    check(op, [array(2, 3, 4), np.array(axis, np.int64)], constant=[1], symbolic={0: ("n", 3, 4)},
          exclusive=exclusive, reverse=reverse)  # fmt: skip


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64])
def test_running_dtypes(op, dtype):
    check(op, [RNG.integers(-3, 4, (3, 4)).astype(dtype), np.array(1, np.int32)], constant=[1])


def test_exclusive_sums_survive_infinities():
    check("CumSum", [np.array([1, np.inf, 2], np.float32), np.array(0, np.int64)], constant=[1], exclusive=1)


def test_running_over_nothing():
    check("CumSum", [np.zeros((2, 0), np.float32), np.array(1, np.int64)], constant=[1], exclusive=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_top_k(axis, largest, k):
    check("TopK", [array(4, 5, 6), np.array([k], np.int64)], 2, constant=[1], symbolic={0: ("n", 5, "w")},
          axis=axis, largest=largest)  # fmt: skip


def test_top_k_takes_the_first_of_equals():
    x = RNG.integers(0, 3, (4, 30)).astype(np.float32)
    for largest in (0, 1):
        check("TopK", [x, np.array([20], np.int64)], 2, constant=[1], largest=largest)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint8])
def test_top_k_dtypes(dtype):
    check("TopK", [RNG.permutation(30).reshape(5, 6).astype(dtype), np.array([2], np.int64)], 2, constant=[1])


def test_top_k_of_symbolic_k():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", 10)))
    k = graph.add_input("k", TensorType(DType.INT64, (1,)))
    node = graph.append(Node("TopK", [x, k], outputs=2))
    assert record_of(node).infer(node)[1] == TensorType.make(DType.INT64, ("n", None))
    k.known = object_array([D.symbol("k")])
    assert record_of(node).infer(node)[0] == TensorType.make(DType.FLOAT32, ("n", "k"))


def test_top_k_of_too_many():
    _, node = graph_of("TopK", [array(2, 3), np.array([4], np.int64)], 2, constant=[1])
    with pytest.raises(ShapeError, match="cannot take 4 of 3"):
        record_of(node).infer(node)
