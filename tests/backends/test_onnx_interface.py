"""Names of output dimensions that callers know survive shape propagation, and go when the inputs change."""

import numpy as np
import onnx
import pytest

import graphopt as go
from graphopt.ir import DType, TensorType
from tests.onnx_models import info, model, node, tensor


@pytest.fixture
def graph():
    nodes = [node("Concat", "x x", "both", axis=1), node("Identity", "both", "same"), node("Relu", "same", "y")]
    return go.load(model(nodes, [info("x", ["n", "length"])], [info("y", ["n", "frames"])]))


def dims(proto):
    return [[d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in proto.graph.output]


def test_a_declared_name_stays(graph):
    go.optimize(graph, "simplify")
    assert str(graph.outputs[0].shape) == "(n, 2*length)"
    written = go.to_onnx(graph)
    assert dims(written) == [["n", "frames"]]
    again = go.load(written)
    assert again.model.declared == graph.model.declared


def test_it_stays_in_the_text_form(graph):
    assert go.parse(str(graph)).model.declared == graph.model.declared
    assert go.parse(str(graph)).model.declared["y"].shape == graph.model.declared["y"].shape


def test_numbers_that_the_file_left_open_are_filled_in():
    nodes = [node("Concat", "x w", "y", axis=1)]
    graph = go.load(
        model(nodes, [info("x", ["n", 3])], [info("y", ["n", None])], [tensor("w", np.ones((1, 2), np.float32))])
    )
    go.optimize(graph, "simplify", check=False)
    assert dims(go.to_onnx(graph)) == [["n", 5]]


def test_who_fixes_a_size_gets_what_follows(graph):
    graph.inputs[0].type = TensorType.make(DType.FLOAT32, ("n", 7))
    go.optimize(graph, "simplify")
    assert dims(go.to_onnx(graph)) == [["n", 14]]


def test_a_declared_name_does_not_hide_a_rank():
    graph = go.load(model([node("Relu", "x", "y")], [info("x", ["n", 2])], [info("y", ["m"])]))
    go.optimize(graph, "simplify", check=False)
    written = go.to_onnx(graph)
    assert dims(written) == [["n", 2]]
    onnx.checker.check_model(written, full_check=True)
