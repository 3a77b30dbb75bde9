import networkx as nx
import pytest
import torch

from graphopt.ir import Graph, Node, to_networkx


@pytest.fixture
def diamond() -> tuple[Graph, dict[str, Node]]:
    graph = Graph("diamond")
    x = graph.add_input("x")
    w = graph.add_constant(torch.zeros(1), "w")
    top = graph.add("Conv", x, w)
    left, right = graph.add("Relu", top), graph.add("Exp", graph.add("Neg", top))
    graph.add_output(graph.add("Add", left, right), "y")
    graph.add("Mul", x, x)
    return graph, {node.op: node for node in graph.nodes}


def test_nodes_and_edges(diamond):
    graph, nodes = diamond
    view = graph.to_networkx()
    [x], [w] = graph.inputs, graph.constants
    assert set(view) == {*nodes.values(), x, w}
    assert [view.nodes[n]["kind"] for n in (x, w, nodes["Add"])] == ["input", "constant", "node"]
    assert view.graph["outputs"] == [nodes["Add"]]
    assert {(d["index"], d["value"]) for _, _, d in view.in_edges(nodes["Add"], data=True)} == {
        (0, nodes["Relu"].output), (1, nodes["Exp"].output),
    }  # fmt: skip
    assert view.number_of_edges(x, nodes["Mul"]) == 2  # one per use
    assert view.number_of_edges() == sum(len(v.uses) for v in graph.values()) - len(graph.outputs)


def test_without_constants(diamond):
    graph, _ = diamond
    view = to_networkx(graph, constants=False)
    assert not set(graph.constants) & set(view)
    assert view.number_of_nodes() == len(graph) + 1


def test_algorithms(diamond):
    graph, nodes = diamond
    view = to_networkx(graph, constants=False)
    [x] = graph.inputs
    order = {n: i for i, n in enumerate(nx.topological_sort(view))}
    assert all(order[a] < order[b] for a, b in view.edges())
    assert nx.dag_longest_path(view) == [x, nodes["Conv"], nodes["Neg"], nodes["Exp"], nodes["Add"]]
    dominators = nx.immediate_dominators(view, x)
    assert dominators[nodes["Add"]] is nodes["Conv"]
    assert nx.descendants(view, nodes["Neg"]) == {nodes["Exp"], nodes["Add"]}
    assert nx.is_directed_acyclic_graph(view)


def test_a_body_reads_through_its_owner():
    graph = Graph()
    x, y = graph.add_input("x"), graph.add_input("y")
    inner = graph.add("Exp", x)
    body = Graph("body")
    body.add_output(body.add("Add", inner, y), "b")
    owner = graph.append(Node("If", [y], {"then_branch": body}))
    view = graph.to_networkx()
    assert {(a, d["index"]) for a, _, d in view.in_edges(owner, data=True)} == {
        (y, 0), (y, None), (inner.producer, None),
    }  # fmt: skip
    assert set(to_networkx(body)) == set(body.nodes)  # a body's view ends at its border


def test_outputs_of_a_node_are_told_apart():
    graph = Graph()
    split = graph.append(Node("Split", [graph.add_input("x")], outputs=2))
    graph.append(Node("Sub", [split.outputs[1], split.outputs[0]]))
    edges = [(d["output"], d["index"]) for *_, d in graph.to_networkx().out_edges(split, data=True)]
    assert sorted(edges) == [(0, 1), (1, 0)]
