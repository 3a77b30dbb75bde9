"""Arithmetic of wide unsigned integers against numpy, up to the largest of them."""

import numpy as np
import pytest
import torch

from graphopt import to_torch
from graphopt.errors import UnsupportedOperatorError
from graphopt.ops import execute
from tests.ops.oracle import graph_of

KINDS = [np.uint16, np.uint32, np.uint64]


def numbers(kind):
    top = int(np.iinfo(kind).max)
    return np.array([[0, 1, 7, top], [top // 2, top // 2 + 1, 5, top - 3]], dtype=kind)


def run(op, *arrays, outputs=1, **attributes):
    """The node's outputs, executed and as a torch module, which must agree."""
    graph, node = graph_of(op, arrays, outputs, **attributes)
    for value in node.outputs:
        graph.add_output(value)
    tensors = [torch.from_numpy(a) for a in arrays]
    got = execute(node, tensors)[:outputs]
    written = to_torch(graph)(*tensors)
    for mine, again in zip(got, written if outputs > 1 else [written], strict=True):
        np.testing.assert_array_equal(mine.numpy(), again.numpy())
    return [tensor.numpy() for tensor in got]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("op", "theirs"),
    [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.floor_divide), ("Mod", np.remainder),
     ("Max", np.maximum), ("Min", np.minimum), ("Greater", np.greater), ("GreaterOrEqual", np.greater_equal),
     ("Less", np.less), ("LessOrEqual", np.less_equal), ("Equal", np.equal), ("BitwiseAnd", np.bitwise_and),
     ("BitwiseOr", np.bitwise_or), ("BitwiseXor", np.bitwise_xor)],
)  # fmt: skip
def test_two_operands(op, theirs, kind):
    x = numbers(kind)
    y = np.array([3, 1, 9, np.iinfo(kind).max], dtype=kind)
    (got,) = run(op, x, y)
    want = theirs(x, y)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_one_operand_and_reductions(kind):
    x = numbers(kind)
    np.testing.assert_array_equal(run("BitwiseNot", x)[0], ~x)
    for op, theirs in (("ReduceMax", np.max), ("ReduceMin", np.min), ("ReduceSum", np.sum), ("ReduceProd", np.prod)):
        (got,) = run(op, x, np.array([1]))
        want = theirs(x, axis=1, keepdims=True).astype(kind)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == kind


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_of_another_type_stay_what_they_are(kind):
    x = numbers(kind)
    (found,) = run("ArgMax", x, axis=1, keepdims=0)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, x.argmax(1))
    values, where = run("TopK", x, np.array([2]), outputs=2)
    np.testing.assert_array_equal(values, np.sort(x, 1)[:, ::-1][:, :2])
    assert (values.dtype, where.dtype) == (kind, np.int64)
    (moved,) = run("Gather", x, np.array([3, 0]), axis=1)
    np.testing.assert_array_equal(moved, x[:, [3, 0]])
    assert moved.dtype == kind


def test_what_is_not_exact_is_refused():
    _, node = graph_of("ReduceMean", [numbers(np.uint64)])
    with pytest.raises(UnsupportedOperatorError, match="beyond 2"):
        execute(node, [torch.from_numpy(numbers(np.uint64))])
    assert run("ReduceMean", np.array([2, 4, 9], np.uint64))[0].tolist() == [5]
