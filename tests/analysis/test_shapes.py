import onnx
import pytest
import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.analysis import bind, propagate, propagate_all
from graphopt.errors import ShapeError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ir import dims as D
from graphopt.models import ZOO, build
from graphopt.runtime import run
from tests.zoo import captured

FLOAT = DType.FLOAT32


def chain(length: int = 6, width: int = 4) -> Graph:
    """``x [batch, 4]`` through a chain of products and activations."""
    graph = Graph()
    value = graph.add_input("x", TensorType.make(FLOAT, ("batch", width)))
    for _ in range(length // 2):
        value = graph.add("Relu", graph.add("MatMul", value, graph.add_constant(torch.zeros(width, width))))
    graph.add_output(value, "y")
    return graph


def branch(op: str, value, **attributes) -> Graph:
    graph = Graph()
    graph.add_output(graph.add(op, value, **attributes), "r")
    return graph


# -- incremental


def test_everything_is_computed_once():
    graph = chain()
    assert propagate(graph) == 6
    assert propagate(graph) == 0
    assert propagate_all(graph) == 6
    assert all(str(node.output.type) == "float32[batch, 4]" for node in graph.nodes)


def test_only_what_lies_downstream_is_recomputed():
    graph = chain(20)
    propagate(graph)
    nodes = list(graph.nodes)
    nodes[12].set_input(1, graph.add_constant(torch.zeros(4, 4)))
    assert propagate(graph) == 1  # the type stayed, so nobody behind it needs to look
    nodes[12].set_input(1, graph.add_constant(torch.zeros(4, 5)))
    nodes[14].set_input(1, graph.add_constant(torch.zeros(5, 4)))
    assert propagate(graph) == 3
    assert str(nodes[13].output.type) == "float32[batch, 5]"
    assert str(nodes[14].output.type) == "float32[batch, 4]"


def test_each_node_downstream_of_a_diamond_is_recomputed_once():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(FLOAT, (2, 3)))
    value = x
    for _ in range(12):  # 2^12 paths
        value = graph.add("Add", graph.add("Relu", value), graph.add("Neg", value))
    graph.add_output(value, "y")
    propagate(graph)
    x.type = TensorType.make(FLOAT, (5, 3))
    assert propagate(graph) == 36
    assert value.shape == (5, 3)


def test_contents_that_change_are_recomputed_downstream():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(FLOAT, (2, 6)))
    z = graph.add_input("z", TensorType.make(FLOAT, (3, 4)))
    y = graph.add("Reshape", z, graph.add("Shape", x))
    graph.add_output(y, "y")
    propagate(graph)
    assert y.shape == (2, 6)
    x.type = TensorType.make(FLOAT, (6, 2))
    propagate(graph)
    assert y.shape == (6, 2)


def test_an_error_names_the_node_and_the_graph_can_be_mended():
    graph = chain()
    propagate(graph)
    node = list(graph.nodes)[2]
    good = node.input(1)
    node.set_input(1, graph.add_constant(torch.zeros(7, 4)))
    with pytest.raises(ShapeError, match="MatMul"):
        propagate(graph)
    node.set_input(1, good)
    propagate(graph)
    assert graph.outputs[0].type == TensorType.make(FLOAT, ("batch", 4))


def test_bodies_are_reached_from_outside():
    graph = Graph()
    condition = graph.add_input("c", TensorType.make(DType.BOOL, ()))
    x = graph.add_input("x", TensorType.make(FLOAT, (2, 3)))
    hidden = graph.add("Relu", x)
    bodies = {"then_branch": branch("Neg", hidden), "else_branch": branch("Abs", hidden)}
    y = graph.append(Node("If", [condition], bodies)).output
    graph.add_output(graph.add("Exp", y), "y")
    propagate(graph)
    assert graph.outputs[0].shape == (2, 3)
    x.type = TensorType.make(FLOAT, (7, 3))
    propagate(graph)
    assert [body.outputs[0].shape for body in bodies.values()] == [(7, 3)] * 2
    assert graph.outputs[0].shape == (7, 3)
    assert propagate(graph) == 0


def test_what_a_rule_does_not_know_is_kept():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(FLOAT, (4,)))
    node = graph.append(Node("Secret", [x], domain="my.domain"))
    node.output.type = TensorType.make(FLOAT, ("n", 4))
    y = graph.add("Relu", node.output)
    graph.add_output(y, "y")
    propagate_all(graph)
    assert y.type == TensorType.make(FLOAT, ("n", 4))


# -- binding


def test_bind_fixes_a_named_dimension_everywhere():
    graph = chain()
    propagate(graph)
    bind(graph, {"batch": 5})
    assert graph.inputs[0].shape == (5, 4)
    assert all(node.output.shape == (5, 4) for node in graph.nodes)


def test_bind_reaches_bodies():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(FLOAT, ("batch", 3)))
    body = Graph("body")
    for name, kind in (("i", TensorType(DType.INT64, ())), ("going", TensorType(DType.BOOL, ()))):
        body.add_input(name, kind)
    state = body.add_input("state", TensorType.make(FLOAT, ("batch", 3)))
    body.set_outputs([body.inputs[1], body.add("Relu", state)], ["going_out", "state_out"])
    loop = graph.append(Node("Loop", [graph.add_constant(torch.tensor(3)), None, x], {"body": body}))
    graph.add_output(loop.output, "y")
    propagate(graph)
    bind(graph, {"batch": 2})
    assert state.shape == body.outputs[1].shape == graph.outputs[0].shape == (2, 3)


def test_bind_of_an_unknown_name_lists_those_that_exist():
    graph = chain()
    with pytest.raises(ShapeError, match="no input has a dimension named 'seq'; there are: batch"):
        bind(graph, {"seq": 3})
    bind(graph, {"batch": 3})
    with pytest.raises(ShapeError, match="all dimensions are numbers"):
        bind(graph, {"batch": 3})


# -- the zoo


@pytest.mark.parametrize("name", ZOO)
def test_agrees_with_onnx_on_exported_files(name, zoo_file):
    """Whatever onnx.shape_inference finds out, propagation finds out too, from the inputs' types alone."""
    model = onnx.load(zoo_file(name))
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    theirs = {info.name: info.type.tensor_type for info in (*inferred.graph.value_info, *inferred.graph.output)}
    graph = go.load(model)
    propagate_all(graph)
    compared = 0
    for node in graph.nodes:
        for value in node.outputs:
            known = theirs.get(value.name)
            if known is None or not known.HasField("shape"):
                continue
            compared += 1
            mine = value.tensor_type
            assert mine.dtype == known.elem_type, value
            assert len(mine.shape) == len(known.shape.dim), value
            for ours, dim in zip(mine.shape, known.shape.dim, strict=True):
                assert not dim.HasField("dim_value") or ours == dim.dim_value, value
    assert compared > len(graph) / 2


@pytest.mark.parametrize("name", ZOO)
def test_named_batch_goes_through_everything(name):
    """Each inferred shape, with the batch bound, is the shape of the tensor that is computed."""
    _, args = build(name)
    graph = captured(name, "batch")
    propagate_all(graph)
    inputs = [torch.cat([leaf, leaf[:1]]) for leaf in pytree.tree_leaves(args)]
    rows = len(inputs[0])
    symbolic = 0

    def check(node, results):
        nonlocal symbolic
        for value, tensor in zip(node.outputs, results, strict=False):
            if not value.uses:
                continue
            assert value.shape is not None, node
            bound = tuple(D.substitute(dim, {"batch": rows}) for dim in value.shape)
            assert bound == tuple(tensor.shape), (node, value.type)
            assert value.dtype.torch == tensor.dtype, node
            symbolic += any(D.is_symbolic(dim) for dim in value.shape)
        return results

    results = run(graph, inputs, hook=check)
    assert symbolic
    assert all(D.free_names(value.shape[0]) == {"batch"} for value in graph.outputs)
    bind(graph, {"batch": rows})
    assert [value.shape for value in graph.outputs] == [tuple(each.shape) for each in results]
    assert all(isinstance(dim, int) for node in graph.nodes for v in node.outputs if v.uses for dim in v.shape)


# -- inputs that are widened by hand


def test_what_a_rule_said_of_a_known_input_goes_when_the_input_is_not_known():
    graph = chain(4)
    graph.inputs[0].type = TensorType.make(FLOAT, (64, 4))
    propagate(graph)
    assert graph.outputs[0].shape == (64, 4)
    graph.inputs[0].type = TensorType.make(FLOAT, (None, 4))
    propagate(graph)
    assert [node.output.shape for node in graph] == [(None, 4)] * 4
    graph.inputs[0].type = TensorType(FLOAT, None)
    propagate(graph)
    assert graph.outputs[0].rank is None or graph.outputs[0].shape[0] is None


def test_what_a_file_tells_beyond_the_rule_stays():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(FLOAT, (8,)))
    found = graph.add("NonZero", x)
    found.type = TensorType.make(DType.INT64, (1, 5))
    graph.add_output(graph.add("Neg", found), "y")
    for _ in range(2):
        propagate_all(graph)
        assert graph.outputs[0].shape == (1, 5)
    x.type = TensorType.make(FLOAT, (None,))
    propagate(graph)
    assert graph.outputs[0].shape == (1, 5)


def test_a_widened_input_of_a_clone():
    graph = chain(2)
    graph.inputs[0].type = TensorType.make(FLOAT, (64, 4))
    propagate(graph)
    twin = graph.clone()
    twin.inputs[0].type = TensorType.make(FLOAT, ("n", 4))
    twin.inputs[0].type = TensorType.make(FLOAT, (None, 4))
    propagate(twin)
    assert twin.outputs[0].shape == (None, 4)
