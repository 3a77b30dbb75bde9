"""Concat and Split against ONNX Runtime."""

import numpy as np
import pytest

from graphopt.analysis import propagate
from graphopt.errors import ShapeError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items):
    return np.array(items, dtype=np.int64)


@pytest.mark.parametrize("axis", [1, -2])
def test_concat(axis):
    inputs = [array(2, 3, 4), array(2, 1, 4), array(2, 0, 4)]
    check("Concat", inputs, symbolic={0: ("n", "c", 4), 1: ("n", 1, 4), 2: ("n", "d", "s")}, axis=axis)


def test_parts_beside_one_of_unknown_size_have_no_place_in_the_whole():
    graph = Graph()
    parts = [graph.add_input(f"x{i}", TensorType.make(DType.FLOAT32, (2, size))) for i, size in enumerate([4, "n", 3])]
    node = graph.append(Node("Concat", parts, {"axis": 1}))
    propagate(graph)
    relation = record_of(node).relate(node)
    assert not relation.selections
    [reason] = set(relation.frozen.values())
    assert "unknown size" in reason


def test_concat_of_one_input():
    check("Concat", [array(2, 3)], axis=0)


def test_concat_rejects():
    with pytest.raises(ShapeError, match="ranks"):
        infer("Concat", [array(2, 3), array(2)], axis=0)
    with pytest.raises(ShapeError, match="dimension 1"):
        infer("Concat", [array(2, 3), array(2, 4)], axis=0)
    with pytest.raises(ShapeError, match="axis 2"):
        infer("Concat", [array(2, 3), array(2, 3)], axis=2)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("sizes", [(1, 2, 3), (0, 6, 0)])
def test_split_by_sizes(axis, sizes):
    check("Split", [array(2, 6), ints(*sizes)], 3, constant=[1], symbolic={0: ("n", 6)}, axis=axis)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_split_evenly(count):
    check("Split", [array(7, 2)], count, symbolic={0: ("n", 2)}, num_outputs=count)


def test_split_rejects():
    with pytest.raises(ShapeError, match="add up"):
        infer("Split", [array(5), ints(2, 2)], 2)
    with pytest.raises(ShapeError, match="outputs"):
        infer("Split", [array(5), ints(2, 3)], 3)


def infer(op, inputs, outputs=1, **attributes):
    _, node = graph_of(op, inputs, outputs, [1] if op == "Split" else (), **attributes)
    return record_of(node).infer(node)
