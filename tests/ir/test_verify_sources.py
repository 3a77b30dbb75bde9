import numpy as np
import pytest
import torch

from graphopt.ir import DType, Parameter, SequenceType, TensorType, verify
from tests.ir.broken import chain, fails

# -- inputs and constants


def test_flags():
    graph, _ = chain()
    graph.inputs[0].is_input = False
    fails(graph, "flagged")
    graph, _ = chain()
    next(iter(graph.constants)).is_input = True
    fails(graph, "flagged")


@pytest.mark.parametrize(
    ("data", "kind", "what"),
    [
        (None, TensorType(DType.FLOAT32, (2,)), "holds no data"),
        (torch.zeros(2), TensorType(DType.INT32, (2,)), "does not carry elements of type int32"),
        (torch.zeros(2), TensorType(DType.UNDEFINED, (2,)), "does not carry"),
        (torch.zeros(2), TensorType(DType.STRING, (2,)), "does not carry"),
        (torch.zeros(2), TensorType(DType.FLOAT32, (3,)), r"shape \(2,\) has the type float32\[3\]"),
        (torch.zeros(2), TensorType.make(DType.FLOAT32, ("n",)), "has the type"),
        (torch.zeros(2), TensorType(DType.FLOAT32, (2, 1)), "has the type"),
        (torch.zeros(2), TensorType(DType.FLOAT32, None), "has the type"),
        (torch.zeros(2), SequenceType(TensorType()), "a tensor has the type seq"),
        (np.array([1], dtype=object), TensorType(DType.STRING, (1,)), "does not carry"),
        (np.array(["a"], dtype=object), TensorType(DType.INT8, (1,)), "does not carry"),
    ],
)
def test_constants_that_do_not_match_their_type(data, kind, what):
    graph, _ = chain()
    [constant] = graph.constants
    constant._data, constant._type = data, kind
    fails(graph, what, "%c")


def test_narrow_elements_in_their_carrier():
    graph, _ = chain()
    graph.add_constant(torch.tensor([1, -8], dtype=torch.int8), dtype=DType.INT4)
    graph.add_constant(torch.tensor([0.5]), dtype=DType.FLOAT4E2M1)
    verify(graph)


def test_default_of_an_input():
    graph, _ = chain()
    graph.add_input("d", TensorType.make(DType.FLOAT32, ("n",)), default=torch.zeros(3))
    graph.add_input("e", TensorType(DType.FLOAT32, None), default=torch.zeros(3))
    verify(graph)
    graph.inputs[1].type = TensorType(DType.FLOAT32, (4,))
    fails(graph, "has the type", "%d")


def test_two_parameters_of_one_name():
    graph, _ = chain()
    graph.add_constant(torch.zeros(1), "a", parameter=Parameter("weight"))
    graph.add_constant(torch.zeros(1), "b", parameter=Parameter("other", aliases=("weight",)))
    fails(graph, "%a and %b both claim to be the parameter 'weight'")


# -- names


def test_names_of_inputs():
    graph, _ = chain()
    graph.add_input("x")
    fails(graph, "two inputs are called 'x'")
    graph.inputs[1].name = ""
    fails(graph, "input 1 has no name")


def test_names_of_outputs():
    graph, nodes = chain()
    graph.add_output(nodes[0].output, "y")
    fails(graph, "two outputs are called 'y'")
    graph._output_names[1] = ""
    fails(graph, "one of the outputs has no name")
    graph._output_names.pop()
    fails(graph, "2 outputs with 1 names")
