"""Sequences and optionals against onnx.reference."""

import numpy as np
import pytest
import torch

from graphopt.errors import DataError, ShapeError
from graphopt.ir import UNKNOWN, DType, OptionalType, SequenceType, TensorType
from graphopt.ir import dims as D
from graphopt.ops import execute, record_of
from graphopt.ops.sequence import join, optional_get_element, sequence_at, sequence_erase, sequence_insert
from tests.ops.values import check, node_of, words

RNG = np.random.default_rng(0)
FLOAT = TensorType.make(DType.FLOAT32, (2, 3))
N = D.symbol("n")


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


ITEMS = [array(2, 3), array(4, 3), array(1, 3)]


def infer(node):
    return record_of(node).infer(node)


def test_construct_and_length():
    check("SequenceConstruct", ITEMS, want=[ITEMS])
    check("SequenceLength", [ITEMS], want=[np.array(3)])
    assert infer(node_of("SequenceConstruct", FLOAT, FLOAT)) == [SequenceType(FLOAT)]
    mixed = TensorType.make(DType.FLOAT32, (N, 3))
    assert infer(node_of("SequenceConstruct", FLOAT, mixed)) == [SequenceType(FLOAT.with_shape((None, 3)))]


@pytest.mark.parametrize("position", [0, 2, -1, -3])
def test_at(position):
    check("SequenceAt", [ITEMS, np.array(position)])


@pytest.mark.parametrize("position", [None, 0, 3, -1, -3])
def test_insert(position):
    item = array(5, 3)
    want = list(ITEMS)
    want.insert(len(want) if position is None else position, item)
    check("SequenceInsert", [ITEMS, item, *([] if position is None else [np.array(position)])], want=[want])


@pytest.mark.parametrize("position", [None, 0, 2, -2])
def test_erase(position):
    check("SequenceErase", [ITEMS, *([] if position is None else [np.array(position)])])


def test_positions_outside():
    tensors = [torch.zeros(1)]
    for place in (1, -2):
        with pytest.raises(DataError, match="outside of a sequence of 1"):
            sequence_at(tensors, torch.tensor(place))
        with pytest.raises(DataError, match="outside"):
            sequence_erase(tensors, torch.tensor(place))
    assert len(sequence_insert(tensors, torch.ones(1), torch.tensor(1))) == 2
    with pytest.raises(DataError, match="outside"):
        sequence_insert(tensors, torch.ones(1), torch.tensor(2))


def test_what_is_no_sequence_is_refused():
    with pytest.raises(ShapeError, match="not a sequence"):
        infer(node_of("SequenceLength", FLOAT))
    assert infer(node_of("SequenceAt", UNKNOWN, TensorType(DType.INT64, ()))) == [UNKNOWN]


def test_empty():
    node = node_of("SequenceEmpty", dtype=int(DType.INT32))
    assert infer(node) == [SequenceType(TensorType(DType.INT32))]
    assert execute(node, []) == ([],)
    into = node_of("SequenceInsert", SequenceType(TensorType(DType.FLOAT32)), FLOAT)
    assert infer(into) == [SequenceType(TensorType(DType.FLOAT32))]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("split", [None, np.array(2), np.array(4), [1, 3]])
def test_split_to_sequence(axis, split):
    x = array(4, 4)
    if split is None:
        check("SplitToSequence", [x], axis=axis)
        check("SplitToSequence", [x], axis=axis, keepdims=0)
    else:
        check("SplitToSequence", [x, np.array(split)], axis=axis)
    uneven = array(5, 5)
    check("SplitToSequence", [uneven, np.array(2)], axis=axis)


def test_types_of_parts():
    node = node_of("SplitToSequence", FLOAT.with_shape((6, 3)), None)
    assert infer(node) == [SequenceType(FLOAT.with_shape((1, 3)))]
    node.set_input(1, node.graph.add_constant(torch.tensor(2)))
    assert infer(node) == [SequenceType(FLOAT.with_shape((2, 3)))]
    node.set_input(1, node.graph.add_constant(torch.tensor(4)))
    assert infer(node) == [SequenceType(FLOAT.with_shape((None, 3)))]
    node.set_input(1, node.graph.add_constant(torch.tensor([3, 3])))
    assert infer(node) == [SequenceType(FLOAT.with_shape((3, 3)))]


def test_parts_that_do_not_fit():
    node = node_of("SplitToSequence", FLOAT, TensorType(DType.INT64, (2,)))
    with pytest.raises(DataError, match="do not make up 2"):
        execute(node, [torch.zeros(2, 3), torch.tensor([1, 2])])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("new_axis", [0, 1])
def test_concat_from_sequence(axis, new_axis):
    check("ConcatFromSequence", [[array(2, 3), array(2, 3)]], axis=axis, new_axis=new_axis)


def test_sequences_of_strings():
    first, second = words("a", "b"), words("c", "d")
    check("SequenceConstruct", [first, second], want=[[first, second]])
    check("ConcatFromSequence", [[first, second]], want=[words("a", "b", "c", "d")], axis=0)
    check("ConcatFromSequence", [[first, second]], want=[words("a", "b", "c", "d", shape=(2, 2))], axis=0, new_axis=1)
    check("SplitToSequence", [words("a", "b", "c")], want=[[words("a"), words("b"), words("c")]])


def test_optionals():
    x = torch.ones(2, 3)
    made = node_of("Optional", FLOAT)
    assert infer(made) == [OptionalType(FLOAT)]
    assert execute(made, [x])[0] is x
    empty = node_of("Optional", type=FLOAT)
    assert infer(empty) == [OptionalType(FLOAT)]
    assert execute(empty, []) == (None,)
    assert infer(node_of("OptionalGetElement", OptionalType(FLOAT))) == [FLOAT]
    assert infer(node_of("OptionalGetElement", FLOAT)) == [FLOAT]
    asked = node_of("OptionalHasElement", OptionalType(FLOAT))
    assert infer(asked) == [TensorType(DType.BOOL, ())]
    assert execute(asked, [x])[0].item() is True
    assert execute(asked, [None])[0].item() is False
    with pytest.raises(DataError, match="optional is empty"):
        optional_get_element(None)


def test_join():
    wide = TensorType.make(DType.FLOAT32, (None, 3))
    assert join(FLOAT, FLOAT.with_shape((5, 3))) == wide
    assert join(FLOAT, FLOAT.with_shape((2, 3, 1))) == TensorType(DType.FLOAT32)
    assert join(TensorType(DType.UNDEFINED, (2, 3)), FLOAT) == FLOAT
    assert join(SequenceType(FLOAT), SequenceType(wide)) == SequenceType(wide)
    assert join(OptionalType(FLOAT), FLOAT) == OptionalType(FLOAT)
    assert join(SequenceType(FLOAT), FLOAT) == UNKNOWN
