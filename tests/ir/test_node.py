import pytest
import torch

from graphopt.ir import UNKNOWN, DType, Graph, Node, Origin, SequenceType, TensorType, Value


@pytest.mark.parametrize(
    ("a", "b", "module"),
    [("layer1.conv", "layer1.bn", "layer1"), ("a", "b", ""), ("", "a.b", "a.b"), ("a.b", "", "a.b"),
     ("a.b", "a.b", "a.b"), ("conv1", "conv10", "")],
)  # fmt: skip
def test_merged_origins(a, b, module):
    merged = Origin(a, ("x", "y"), ("p",)).merge(Origin(b, ("y", "z"), ("p", "q")))
    assert merged == Origin(module, ("x", "y", "z"), ("p", "q"))


def test_touched_by():
    origin = Origin("a").touched_by("fuse")
    assert origin.passes == ("fuse",)
    assert origin.touched_by("fuse") is origin


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Node("Conv", origin=Origin("layer1.conv"), name="n"), "Conv 'layer1.conv'"),
        (Node("Conv", name="n"), "Conv 'n'"),
        (Node("Conv", origin=Origin(sources=("s", "t"))), "Conv 's'"),
        (Node("Conv", outputs=[Value(name="y")]), "Conv '%y'"),
        (Node("Conv", domain="my"), "my::Conv"),
        (Node("Conv", outputs=0), "Conv"),
    ],
)
def test_describe(node, text):
    assert node.describe() == text


def test_repr():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", None)))
    node = graph.append(Node("Clip", [x, None], {"a": 1}, domain="my"))
    assert repr(node) == "%? = my::Clip(%x, none)"
    assert repr(x) == "%x: float32[n, ?]"
    assert repr(node.attributes) == "{'a': 1}"
    assert repr(graph) == "<Graph 'main': 1 nodes, 1 inputs, 0 outputs>"


def test_values():
    constant = Value.constant(torch.tensor([1, 2], dtype=torch.int8), "c", DType.UINT4)
    assert (constant.dtype, constant.shape, constant.rank) == (DType.UINT4, (2,), 1)
    assert constant.is_constant
    assert constant.strings is None
    sequence = Value(SequenceType(TensorType()))
    assert sequence.tensor_type is UNKNOWN
    assert sequence.shape is None
    assert sequence.rank is None


def test_a_default_is_data_but_no_constant():
    value = Graph().add_input("x", default=torch.zeros(1))
    assert value.data is not None
    assert not value.is_constant
