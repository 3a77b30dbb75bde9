import copy
import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import DType, Graph, Node, TensorType, captured, difference, verify
from tests.ir.graphs import random_edit, random_graph


def chain(count: int) -> tuple[Graph, list[Node]]:
    graph = Graph()
    x = graph.add_input("x")
    for _ in range(count):
        x = graph.add("Relu", x)
    return graph, list(graph.nodes)


@settings(max_examples=80)
@given(st.integers(0, 1 << 32))
def test_a_clone_is_independent(seed):
    rng = random.Random(seed)
    graph = random_graph(rng)
    if rng.random() < 0.5:
        graph.take_dirty()
    twin = graph.clone()
    verify(twin)
    assert [n.op for n in twin._dirty] == [n.op for n in graph._dirty]
    untouched = graph.clone()
    for _ in range(5):
        random_edit(rng, twin)
    verify(graph)
    assert difference(graph, untouched, provenance=True) is None


def test_a_clone_shares_tensors_and_keeps_defaults():
    graph = Graph()
    graph.add_constant(torch.zeros(2), "c")
    graph.add_input("s", TensorType(DType.STRING, (1,)), default=np.array(["a"], dtype=object))
    graph.inputs[0].known = None
    twin = graph.clone()
    assert next(iter(twin.constants)).data is next(iter(graph.constants)).data
    assert twin.inputs[0].strings is graph.inputs[0].strings


def test_a_clone_of_a_body_reads_the_graph_around():
    graph, nodes = chain(1)
    body = Graph("b")
    body.add_output(body.add("Neg", nodes[0].output), "o")
    graph.append(Node("If", [nodes[0].output], {"then_branch": body}))
    twin = body.clone()
    graph.append(Node("If", [nodes[0].output], {"then_branch": twin}))
    verify(graph)
    assert captured(twin.owner) == [nodes[0].output]


def test_metadata_is_copied_as_a_plain_dict():
    graph = Graph()
    graph.metadata["a"] = "b"
    for twin in (copy.copy(graph.metadata), copy.deepcopy(graph.metadata)):
        assert type(twin) is dict
        assert twin == {"a": "b"}


def test_version_grows_with_edits_anywhere():
    graph, nodes = chain(1)
    body = Graph("b")
    graph.append(Node("If", [nodes[0].output], {"then_branch": body}))
    for edit in (
        lambda: body.add("A"),
        lambda: setattr(nodes[0], "op", "Exp"),
        lambda: setattr(body, "doc", "d"),
        lambda: nodes[0].metadata.update(a="b"),
        lambda: setattr(graph.inputs[0], "type", TensorType(DType.INT8, ())),
    ):
        before = graph.version
        edit()
        assert graph.version > before
        assert body.version == graph.version
    before = graph.version
    nodes[0].op = "Exp"
    assert graph.version == before


def test_a_deep_copy_of_a_long_graph_is_a_clone():
    graph, _ = chain(5000)
    twin = copy.deepcopy(graph)
    assert len(twin) == 5000
    assert difference(graph, twin) is None
