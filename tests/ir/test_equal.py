import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt as go
from graphopt.ir import (
    DType,
    Graph,
    MapType,
    Node,
    OptionalType,
    Origin,
    Parameter,
    SequenceType,
    TensorType,
    difference,
    equal,
)  # fmt: skip
from graphopt.ir.literals import EmptyList, SparseTensor, TypedTensor
from graphopt.ir.text import parse
from tests.ir.graphs import random_graph


def build() -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", 2)))
    graph.add_input("limit", TensorType(DType.FLOAT32, (1,)), default=torch.tensor([0.5]))
    weight = graph.add_constant(torch.tensor([0.0, 1.0]), "w", parameter=Parameter("weight"))
    graph.add_constant(torch.tensor([3]), "unused", parameter=Parameter("spare"))
    node = graph.append(Node("Op", [x, weight, None], {"axis": 1, "alpha": 0.0, "names": ("a", "b")}, 2, name="op"))
    node.outputs[1].name = "second"
    body = Graph("body")
    body.add_output(body.add("Neg", node.output), "b")
    graph.append(Node("If", [node.output], {"then_branch": body}))
    graph.add_output(node.output, "y")
    return graph


def node(graph: Graph, index: int = 0) -> Node:
    return list(graph.nodes)[index]


def body(graph: Graph) -> Graph:
    return node(graph, 1).bodies[0]


@settings(max_examples=100)
@given(st.integers(0, 1 << 32))
def test_a_clone_is_equal_and_another_graph_is_not(seed):
    graph = random_graph(random.Random(seed))
    copy = graph.clone()
    assert difference(graph, copy, provenance=True) is None
    assert difference(copy, graph, provenance=True) is None
    copy.add("Extra", name="extra")
    assert "one more node" in (difference(graph, copy) or "")
    assert "one more node" in (difference(copy, graph) or "")


def change(constant: str, data: torch.Tensor):
    def edit(graph: Graph) -> None:
        next(v for v in graph.constants if v.name == constant)._data = data

    return edit


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda g: setattr(g.inputs[0], "name", "z"), "inputs is"),
        (lambda g: g.add_input("more"), "inputs is"),
        (lambda g: setattr(g.inputs[0], "type", TensorType.make(DType.FLOAT32, ("m", 2))), "input 'x': type is"),
        (lambda g: setattr(g.inputs[1], "data", None), "input 'limit': data differs"),
        (lambda g: setattr(node(g), "op", "Other"), "Op 'op': operator is '::Op'"),
        (lambda g: setattr(node(g), "domain", "d"), "operator is"),
        (lambda g: setattr(node(g), "overload", "o"), "operator is"),
        (lambda g: node(g).set_inputs(node(g).inputs[:2]), "number of inputs is 3"),
        (lambda g: node(g).set_input(2, g.inputs[0]), "input 2: left out in the first graph only"),
        (lambda g: node(g).set_input(0, None), "input 0: left out in the second graph only"),
        (lambda g: node(g).set_input(0, g.inputs[1]), "reads the input 'x' in the first graph, the input 'limit'"),
        (lambda g: node(g, 1).set_input(0, node(g).outputs[1]), "input 0: reads output 0 of Op 'op'"),
        (change("w", torch.tensor([-0.0, 1.0])), "input 1: data differs"),
        (change("w", torch.tensor([0, 1])), "torch.float32 of shape (2,) in the first graph, torch.int64"),
        (change("unused", torch.tensor([4])), "unused constant 'spare': data differs"),
        (lambda g: g.add_constant(torch.zeros(1)), "number of constants is 2"),
        (lambda g: setattr(g.parameters[0], "parameter", Parameter("renamed")), "input 1: parameter is"),
        (lambda g: node(g).attributes.__delitem__("axis"), "names of attributes is"),
        (lambda g: node(g).attributes.__setitem__("axis", 2), "'axis': 1 in the first graph, 2 in the second"),
        (lambda g: node(g).attributes.__setitem__("axis", 1.0), "attribute 'axis': 1 in the first graph, 1.0"),
        (lambda g: node(g).attributes.__setitem__("alpha", -0.0), "attribute 'alpha'"),
        (lambda g: node(g).attributes.__setitem__("names", ("a", "c")), "attribute 'names': [1] 'b'"),
        (lambda g: node(g).attributes.__setitem__("names", ("a",)), "attribute 'names': length is 2"),
        (lambda g: setattr(node(g).outputs[1], "name", ""), "number of outputs is 2"),
        (lambda g: setattr(node(g).outputs[1], "type", TensorType(DType.BOOL, ())), "output 1: type is"),
        (lambda g: setattr(node(body(g)), "op", "Exp"), "If: attribute 'then_branch': Neg: operator"),
        (lambda g: node(body(g)).set_input(0, g.inputs[0]), "attribute 'then_branch': Neg: input 0: reads output 0"),
        (lambda g: g.set_outputs(g.outputs, ["z"]), "output names is"),
        (lambda g: g.set_input(0, g.inputs[0]), "'y': reads output 0 of Op 'op' in the first graph, the input 'x'"),
    ],
)  # fmt: skip
def test_differences(edit, what):
    first, second = build(), build()
    edit(second)
    found = difference(first, second)
    assert found is not None
    assert what in found
    assert "\n" not in found
    assert not equal(first, second)


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda g: setattr(node(g), "name", "n"), "name is 'op'"),
        (lambda g: setattr(node(g), "origin", Origin("a")), "origin"),
        (lambda g: setattr(node(g), "doc", "d"), "doc string"),
        (lambda g: node(g).metadata.update(a="b"), "metadata"),
        (lambda g: g.inputs[0].metadata.update(a="b"), "input 'x': metadata"),
        (lambda g: setattr(g, "name", "n"), "name of the graph"),
        (lambda g: setattr(g, "doc", "n"), "doc string"),
        (lambda g: setattr(g.model, "opset", 3), "model's opset"),
        (lambda g: setattr(g, "signature", 3), "signature"),
    ],
)
def test_provenance_is_compared_on_request(edit, what):
    first, second = build(), build()
    edit(second)
    assert equal(first, second)
    assert what in (difference(first, second, provenance=True) or "")


def test_names_and_the_order_of_constants_do_not_matter():
    first, second = build(), build()
    for value in second.values():
        if not value.is_input and (value.name or value.uses):
            value.name = "other"
    moved = next(iter(second.constants))
    second._constants[moved] = second._constants.pop(moved)
    assert next(iter(first.constants)).name == "w"
    assert next(iter(second.constants)).parameter.name == "spare"
    assert equal(first, second)


def test_sharing_a_constant_is_structure():
    def graph(shared: bool) -> Graph:
        graph = Graph()
        a = graph.add_constant(torch.ones(1))
        b = a if shared else graph.add_constant(torch.ones(1))
        graph.add("Add", a, b)
        return graph

    assert equal(graph(True), graph(True))
    assert equal(graph(False), graph(False))
    assert not equal(graph(True), graph(False))
    assert not equal(graph(False), graph(True))


def test_a_meta_tensor_stands_for_any_data():
    first, second = build(), build()
    change("w", torch.empty(2, device="meta"))(second)
    assert equal(first, second)
    change("w", torch.empty(3, device="meta"))(second)
    assert not equal(first, second)


def test_dimensions_are_compared_as_expressions():
    first, second = build(), build()
    first.inputs[0].type = TensorType.make(DType.FLOAT32, ("2*(n + m)*k", None))
    second.inputs[0].type = TensorType.make(DType.FLOAT32, ("2*n*k + 2*m*k", None))
    assert equal(first, second)
    second.inputs[0].type = TensorType.make(DType.FLOAT32, ("2*n*k + 2*m*k", 1))
    assert not equal(first, second)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (float("nan"), float("nan"), True),
        (True, 1, True),
        (DType.FLOAT32, 1, True),
        ("1", b"1", False),
        ((), EmptyList("FLOATS"), True),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), True),
        (torch.tensor([0.0]), torch.nn.Parameter(torch.tensor([0.0])), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.zeros(2), np.array(["a"], dtype=object), False),
        (np.array(["a"], dtype=object), np.array(["a"], dtype=object), True),
        (np.array(["a"], dtype=object), np.array(["b"], dtype=object), False),
        (TypedTensor(torch.zeros(1), DType.INT4), TypedTensor(torch.zeros(1), DType.INT4), True),
        (TypedTensor(torch.zeros(1), DType.INT4), TypedTensor(torch.zeros(1), DType.UINT4), False),
        (
            SparseTensor(torch.ones(1), torch.zeros(1), (2,), DType.FLOAT32),
            SparseTensor(torch.ones(1), torch.zeros(1), (2,), DType.FLOAT32),
            True,
        ),
        (
            SparseTensor(torch.ones(1), torch.zeros(1), (2,), DType.FLOAT32),
            SparseTensor(torch.ones(1), torch.ones(1), (2,), DType.FLOAT32),
            False,
        ),
        (SequenceType(TensorType()), SequenceType(TensorType()), True),
        (SequenceType(TensorType()), OptionalType(TensorType()), False),
        (MapType(DType.INT64, TensorType()), MapType(DType.STRING, TensorType()), False),
        (TensorType(DType.INT8, None), TensorType(DType.INT8, (1,)), False),
        (TensorType(DType.INT8, (1,)), SequenceType(TensorType()), False),
    ],
)
def test_attribute_values(a, b, same):
    graphs = []
    for value in (a, b):
        graphs.append(Graph())
        graphs[-1].append(Node("Op", attributes={"a": value}))
    assert equal(*graphs) is same
    assert equal(*graphs[::-1]) is same


def test_a_single_element_of_any_stride():
    """torch calls it contiguous, but cannot view it as bytes: it is what folding an Expand leaves."""
    lone = torch.tensor([2.5], dtype=torch.float64).as_strided((1, 1), (0, 0))
    graphs = []
    for data in (lone, torch.full((1, 1), 2.5, dtype=torch.float64)):
        graph = Graph()
        x = graph.add_input("x", TensorType(DType.FLOAT64, (1, 1)))
        graph.add_output(graph.add("Add", x, graph.add_constant(data, "c")), "y")
        graphs.append(graph)
    assert difference(*graphs) is None
    assert str(parse(str(graphs[0]))) == str(graphs[1])
    written = [each.SerializeToString() for graph in graphs for each in go.to_onnx(graph).graph.initializer]
    assert written[0] == written[1]
    go.optimize(graphs[0], "share-constants")
