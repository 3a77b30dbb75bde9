"""Constant, ConstantOfShape, EyeLike, OneHot, and operators that select by value, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import execute, record_of
from tests.ops.oracle import check, run_onnx

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items):
    return np.array(items, dtype=np.int64)


def check_attributes(op, inputs, mine, theirs):
    """As `check`, for attributes that hold a tensor, which a model writes otherwise than a graph does."""
    graph = Graph()
    node = graph.append(Node(op, [graph.add_constant(torch.from_numpy(a)) for a in inputs], mine))
    got = execute(node, [torch.from_numpy(a) for a in inputs])[0]
    names = [f"x{i}" for i in range(len(inputs))]
    infos = [helper.make_tensor_value_info(n, 7, a.shape) for n, a in zip(names, inputs, strict=True)]
    body = helper.make_graph(
        [helper.make_node(op, names, ["y0"], **theirs)], "g", infos, [onnx.ValueInfoProto(name="y0")]
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    (want,) = run_onnx(model, inputs)
    np.testing.assert_array_equal(got.numpy(), want)
    assert got.numpy().dtype == want.dtype
    assert record_of(node).infer(node)[0] == TensorType.of(got)


@pytest.mark.parametrize(
    "attributes",
    [{"value_int": 3}, {"value_ints": (1, 2)}, {"value_float": 1.5}, {"value_floats": (1.0, 2.0)}],
)
def test_constant(attributes):
    check_attributes("Constant", [], attributes, attributes)


@pytest.mark.parametrize(
    "data", [np.arange(6, dtype=np.float16).reshape(2, 3), np.array(True), np.zeros((0, 2), np.int8)]
)
def test_constant_tensor(data):
    check_attributes("Constant", [], {"value": torch.from_numpy(data)}, {"value": numpy_helper.from_array(data)})


def test_constant_strings_have_a_type_but_no_torch_form():
    node = Graph().append(Node("Constant", [], {"value_strings": ("a", "b")}))
    assert record_of(node).infer(node) == [TensorType(DType.STRING, (2,))]
    with pytest.raises(UnsupportedOperatorError, match="strings"):
        execute(node, [])


@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2)])
@pytest.mark.parametrize("value", [None, np.array([7], np.int64), np.array([True]), np.array([1.5], np.float16)])
def test_constant_of_shape(shape, value):
    mine = {} if value is None else {"value": torch.from_numpy(value)}
    theirs = {} if value is None else {"value": numpy_helper.from_array(value)}
    check_attributes("ConstantOfShape", [ints(*shape)], mine, theirs)


@pytest.mark.parametrize("attributes", [{}, {"k": 1}, {"k": -2, "dtype": 7}, {"dtype": 10}])
def test_eye_like(attributes):
    check("EyeLike", [array(3, 4)], symbolic={0: ("a", "b")}, **attributes)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis):
    indices = ints([0, 2, -1], [5, -9, 3])
    values = np.array([2, 5], np.float32)
    check("OneHot", [indices, np.array(4), values], constant=[1], symbolic={0: ("a", "b")}, axis=axis)


def test_one_hot_of_floats():
    check("OneHot", [array(3).round(), np.array([3.0], np.float32), np.array([0, 1], np.float32)], constant=[1])


@pytest.mark.parametrize("shape", [(3, 4), (5,), (0, 2)])
def test_nonzero(shape):
    check_unknown("NonZero", [RNG.integers(0, 2, shape).astype(np.float32)])


def test_nonzero_of_a_scalar_is_as_the_standard_says():
    """Shape [0, n]; ONNX Runtime gives [1, n], as numpy once did."""
    graph = Graph()
    node = graph.append(Node("NonZero", [graph.add_input("x", TensorType(DType.FLOAT32, ()))]))
    assert execute(node, [torch.tensor(1.0)])[0].shape == (0, 1)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis):
    condition = np.array([False, True, True])
    check("Compress", [array(3, 4), condition], constant=[1], **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize("sorted", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique(axis, sorted):
    x = RNG.integers(0, 2, (5, 4)).astype(np.float32)
    check_unknown("Unique", [x], 4, sorted=sorted, **({} if axis is None else {"axis": axis}))


def check_unknown(op, inputs, outputs=1, **attributes):
    """As `check`, for results whose size no type rule can know: the rule must leave exactly that open."""
    from tests.ops.oracle import graph_of, onnx_model

    _, node = graph_of(op, inputs, outputs, **attributes)
    got = execute(node, [torch.from_numpy(a) for a in inputs])
    for mine, theirs in zip(got, run_onnx(onnx_model(op, inputs, outputs, **attributes), inputs), strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs)
    for kind, mine in zip(record_of(node).infer(node), got, strict=True):
        assert kind.dtype.torch == mine.dtype
        assert len(kind.shape) == mine.dim()
        assert all(d is None or d == size for d, size in zip(kind.shape, mine.shape, strict=True))
