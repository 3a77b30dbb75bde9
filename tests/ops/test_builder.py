import numpy as np
import pytest
import torch

from graphopt.errors import OptionError, ShapeError
from graphopt.ir import DType, Graph, Origin, Parameter, TensorType
from graphopt.ops.builder import Builder


@pytest.fixture
def graph():
    graph = Graph()
    graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", 4)))
    return graph


def test_types_are_inferred_at_once(graph):
    b = Builder(graph, origin=Origin("layer"))
    y = b.Reshape(graph.inputs[0], [-1, 2, 2])
    assert str(y.type) == "float32[n, 2, 2]"
    assert y.producer.origin.module == "layer"
    first, second = b.Split(y, axis=1, num_outputs=2, outputs=2)
    assert str(second.type) == "float32[n, 1, 2]"
    assert [node.op for node in graph] == ["Reshape", "Split"]
    assert first.producer is second.producer


def test_nodes_go_before_the_anchor_in_the_order_of_making(graph):
    last = graph.add("Relu", graph.inputs[0])
    b = Builder(graph, last.producer)
    b.Neg(b.Abs(graph.inputs[0]))
    b.in_module("head")
    assert b("Erf", graph.inputs[0], name="e").producer.origin.module == "head"
    assert [node.op for node in graph] == ["Abs", "Neg", "Erf", "Relu"]


def test_left_out_inputs_and_attributes(graph):
    b = Builder(graph)
    y = b.Clip(graph.inputs[0], None, b.constant(1.0, like=graph.inputs[0]))
    assert list(y.producer.inputs)[1] is None
    assert len(b.Clip(graph.inputs[0], None, None).producer.inputs) == 1
    assert not b.Softmax(graph.inputs[0], axis=None).producer.attributes


def test_constants(graph):
    b = Builder(graph)
    assert b.constant([1, 2]).dtype is DType.INT64
    assert b.constant(3).shape == ()
    assert b.constant([]).dtype is DType.INT64
    assert b.constant(np.ones((2, 2), np.float16)).dtype is DType.FLOAT16
    assert b.constant(torch.ones(2).double(), like=graph.inputs[0]).dtype is DType.FLOAT32
    assert b.constant(torch.ones(2, dtype=torch.int8), dtype=DType.INT4).dtype is DType.INT4
    assert b.constant(torch.ones(2), parameter=Parameter("w")).name == "w"
    with pytest.raises(OptionError, match="not made of integers"):
        b.constant([0.5])


def test_like(graph):
    b = Builder(graph)
    node = b.Gemm(graph.inputs[0], b.constant(torch.ones(4, 3)), alpha=2.0, beta=0.5).producer
    y = b.like(node, graph.inputs[0], b.constant(torch.ones(3, 4)), transB=1, beta=None)
    assert dict(y.producer.attributes) == {"alpha": 2.0, "transB": 1}


def test_node_that_does_not_fit_is_not_inserted(graph):
    b = Builder(graph)
    with pytest.raises(ShapeError):
        b.MatMul(graph.inputs[0], b.constant(torch.ones(3, 3)))
    assert len(graph) == 0


def test_discard(graph):
    b = Builder(graph)
    text = str(graph)
    b.Relu(b.Add(graph.inputs[0], b.constant(torch.ones(4))))
    b.discard()
    assert str(graph) == text
    assert not graph.inputs[0].uses


def test_misspelt_method(graph):
    with pytest.raises(AttributeError, match="capital letter"):
        Builder(graph).konstant(1)
