"""The notation of channel relations."""

from graphopt.ir import DType, Graph, TensorType
from graphopt.ops import labels


def test_an_extent_that_is_no_number_frees_nothing_that_is_tied_to_it():
    graph = Graph()
    a = graph.add_input("a", TensorType.make(DType.FLOAT32, ("n", 4, 5)))
    b = graph.add_input("b", TensorType.make(DType.FLOAT32, (3, 5, 6)))
    y = graph.add("MatMul", a, b)
    y.type = TensorType.make(DType.FLOAT32, (3, 4, 6))
    relation = labels(y.producer, "... m k, ... k n -> ... m n")
    assert relation.axes[a, 2] == relation.axes[b, 1]
    assert {axis.label for axis in relation.axes[b, 0]} <= set(relation.frozen)
