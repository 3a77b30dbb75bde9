"""Which opset a graph is written at, the forms that older opsets want, and what cannot be written."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch

from graphopt.backends.onnx_model import to_onnx
from graphopt.backends.onnx_opset import NEWEST, expressible, versions_of
from graphopt.errors import OptionError, SaveError, UnsupportedOperatorError
from graphopt.frontends.load import load
from graphopt.ir import DType, Graph, Node, TensorType
from tests.onnx_same import assert_close, run

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6)).astype(np.float32)


def graph_of(op, *constants, shape=X.shape, dtype=DType.FLOAT32, outputs=1, name="it", **attributes):
    """One node over input x and constants (``None`` for a left-out input)."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(dtype, shape))
    inputs = [None if c is None else graph.add_constant(torch.as_tensor(c)) for c in constants]
    node = graph.append(Node(op, [x, *inputs], attributes, outputs, name=name))
    for index, value in enumerate(node.outputs):
        graph.add_output(value, f"y{index}")
    return graph


def opset_of(model):
    return model.opset_import[0].version


@pytest.mark.parametrize(
    ("graph", "opset"),
    [
        (graph_of("Relu"), 18),
        (graph_of("Relu", dtype=DType.INT32), 18),
        (graph_of("Gelu"), 20),
        (graph_of("Swish"), 24),
        (graph_of("Relu", dtype=DType.BFLOAT16), 18),
        (graph_of("Sin", dtype=DType.BFLOAT16), 22),
        (graph_of("Cast", to=DType.FLOAT16), 18),
        (graph_of("Cast", to=DType.FLOAT16, saturate=1), 18),
        (graph_of("Cast", to=DType.FLOAT8E4M3FN, saturate=0), 19),
        (graph_of("ReduceMax", torch.tensor([1])), 18),
        (graph_of("ReduceMax", torch.tensor([1]), dtype=DType.BOOL), 20),
        (graph_of("Pad", torch.tensor([0, 0, 1, 0, 0, 1])), 18),
        (graph_of("Pad", torch.tensor([0, 0, 1, 0, 0, 1]), mode="wrap"), 19),
        (graph_of("Mod", torch.ones(6), fmod=1), 18),
        (graph_of("Mod", torch.ones(6)), 28),
    ],
    ids=lambda v: next(iter(v)).op if isinstance(v, Graph) else str(v),
)
def test_the_lowest_opset_that_can_express_the_graph(graph, opset):
    for node in graph:
        if node.op == "Cast":
            node.output.type = TensorType(DType(node.attributes["to"]), X.shape)
    if opset <= NEWEST:
        assert opset_of(to_onnx(graph)) == opset


def test_where_the_checker_knows_better_a_later_opset_is_taken():
    """ONNX changed the extent that ceil_mode gives in opset 22, without changing the operator's form."""
    graph = graph_of("MaxPool", shape=(1, 1, 2, 2), kernel_shape=(1, 1), strides=(2, 2), ceil_mode=1, pads=(0, 0, 0, 0))
    (node,) = graph
    model = to_onnx(graph)
    assert opset_of(model) == 18
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    node.output.type = TensorType(DType.FLOAT32, (1, 1, 1, 1))
    later = to_onnx(graph)
    assert (opset_of(later) == 18) == (shape == [1, 1, 1, 1])


# -- older forms, run at the opset asked for and at the newest that runs


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(torch.tensor([1, -1]),), ()])
def test_reductions_below_18(axes, keepdims):
    graph = graph_of("ReduceMean", *axes, keepdims=keepdims)
    old = to_onnx(graph, 13)
    assert len(old.graph.node[0].input) == 1
    assert_close(run(old, X), run(to_onnx(graph), X))


@pytest.mark.parametrize(("count", "axis"), [(2, 2), (4, 2), (3, 1)])
def test_split_below_18(count, axis):
    graph = graph_of("Split", outputs=count, axis=axis, num_outputs=count)
    assert_close(run(to_onnx(graph, 13), X), run(to_onnx(graph), X))


@pytest.mark.parametrize("axes", [[1, 2], [-1, 0]])
def test_pad_below_18(axes):
    graph = graph_of("Pad", torch.tensor([1, 2, 0, 1]), torch.tensor(3.0), torch.tensor(axes))
    assert_close(run(to_onnx(graph, 13), X), run(to_onnx(graph), X))


def test_group_norm_of_opset_18_is_deprecated():
    scale = torch.arange(4.0)
    graph = graph_of("GroupNormalization", scale, scale, num_groups=2)
    next(iter(graph)).output.type = TensorType(DType.FLOAT32, X.shape)
    assert opset_of(to_onnx(graph)) == 21
    assert not expressible(next(iter(graph))) >> 20 & 1


def test_attributes_that_came_later_are_dropped_at_their_default():
    graph = graph_of("Reshape", torch.tensor([4, 12]), allowzero=0)
    assert [a.name for a in to_onnx(graph, 13).graph.node[0].attribute] == []
    assert [a.name for a in to_onnx(graph).graph.node[0].attribute] == ["allowzero"]
    graph = graph_of("Reshape", torch.tensor([4, 12]), allowzero=1)
    assert [a.name for a in to_onnx(graph, 13).graph.node[0].attribute] == []
    graph = graph_of("Reshape", torch.tensor([0, 12]), shape=(0, 6), allowzero=1)
    with pytest.raises(UnsupportedOperatorError, match="lowest opset that can is 14"):
        to_onnx(graph, 13)


@pytest.mark.parametrize("opset", range(13, NEWEST + 1))
def test_every_opset_that_can_be_asked_for(opset):
    graph = graph_of("Relu")
    model = to_onnx(graph, opset)
    assert opset_of(model) == opset
    onnx.checker.check_model(model, full_check=True)
    assert [n.op for n in load(model)] == ["Relu"]


# -- what cannot be written


@pytest.mark.parametrize("opset", [7, 12, NEWEST + 1])
def test_opsets_that_cannot_be_asked_for(opset):
    with pytest.raises(OptionError, match=f"opset {opset} cannot be written"):
        to_onnx(graph_of("Relu"), opset)


def test_an_opset_that_is_too_old_names_the_nodes_and_the_lowest_that_works():
    graph = graph_of("BitwiseNot", name="flip", dtype=DType.INT32)
    graph.set_outputs([graph.add("BitCast", graph.outputs[0], name="bits", to=1)], ["y"])
    with pytest.raises(UnsupportedOperatorError) as raised:
        to_onnx(graph, 17)
    text = str(raised.value)
    for part in ("opset 17 cannot express", "BitwiseNot 'flip'", "BitCast 'bits'", "lowest opset that can is 26"):
        assert part in text
    assert "\n" not in text


def test_all_operators_that_onnx_lacks_are_named_at_once():
    graph = graph_of("Relu")
    value = graph.outputs[0]
    for op, domain in (("cumprod.default", "aten"), ("special_i0", "aten"), ("MyOwn", ""), ("special_i0", "aten")):
        value = graph.add(op, value, domain=domain)
    graph.set_outputs([value], ["y"])
    with pytest.raises(UnsupportedOperatorError) as raised:
        to_onnx(graph)
    assert "MyOwn, aten::cumprod.default, aten::special_i0" in str(raised.value)


def test_types_that_no_opset_allows():
    graph = graph_of("Conv", torch.ones(4, 4, 1, dtype=torch.int32), shape=(2, 4, 6), dtype=DType.INT32)
    with pytest.raises(UnsupportedOperatorError, match="no opset can express"):
        to_onnx(graph)


def test_a_graph_that_the_checker_refuses():
    graph = graph_of("Relu")
    next(iter(graph)).output.type = TensorType(DType.FLOAT32, (2, 4, 7))
    with pytest.raises(SaveError, match="ONNX's checker refuses the graph") as raised:
        to_onnx(graph)
    assert "\n" not in str(raised.value)
    assert "(6) vs (7)" in str(raised.value)


def test_attributes_without_a_form():
    with pytest.raises(SaveError, match="attribute 'axis' of Softmax is no INT"):
        to_onnx(graph_of("Softmax", axis="last"))
    graph = graph_of("Relu")
    graph.set_outputs([graph.add("Op", graph.outputs[0], domain="d", thing=object())], ["y"])
    with pytest.raises(SaveError, match="'thing' holds a object"):
        to_onnx(graph)
    graph = graph_of("Relu")
    graph.set_outputs([graph.add("Op", graph.outputs[0], domain="d", mixed=(1, "a"))], ["y"])
    with pytest.raises(SaveError, match="mixes elements"):
        to_onnx(graph)


# -- the schemas themselves


def test_versions_cover_all_opsets_without_gaps():
    for op in ("Relu", "Resize", "Softmax", "Gelu", "BatchNormalization"):
        versions = versions_of(op)
        assert all(a.until == b.since for a, b in pairwise(versions))
        assert versions[-1].until == NEWEST + 1
    assert versions_of("Upsample") == ()
    assert versions_of("NoSuchOperator") == ()


def test_expressible_is_a_set_of_opsets():
    (gelu,) = graph_of("Gelu")
    assert [v for v in range(13, NEWEST + 1) if expressible(gelu) >> v & 1] == list(range(20, NEWEST + 1))


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_normalization_that_trains_has_all_its_outputs(count):
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 3, 4)))
    parameters = [graph.add_constant(torch.full((3,), number)) for number in (1.0, 2.0, 3.0, 4.0)]
    node = graph.append(Node("BatchNormalization", [x, *parameters], {"training_mode": 1}, count))
    graph.add_output(node.output, "y")
    written = to_onnx(graph)
    outputs = written.graph.node[0].output
    assert len(outputs) == 3
    assert all(outputs)
    given = torch.randn(2, 3, 4)
    want = torch.nn.functional.batch_norm(given, None, None, *(p.data for p in parameters[:2]), training=True)
    assert_close(run(written, given.numpy())[0], want.numpy())
