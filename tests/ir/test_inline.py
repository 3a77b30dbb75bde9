import pytest
import torch

from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ir.inline import inline


def owned():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)))
    bodies = []
    for op in ("Relu", "Neg"):
        body = Graph("body")
        body.add_output(body.add(op, body.add("Add", x, body.add_constant(torch.ones(2), "one"))), "out")
        bodies.append(body)
    condition = graph.add_input("c", TensorType.make(DType.BOOL, ()))
    node = graph.append(Node("If", [condition], {"then_branch": bodies[0], "else_branch": bodies[1]}))
    graph.add_output(node.output, "y")
    return graph, node, bodies


def test_moves_nodes_and_constants_in_front_of_the_owner():
    graph, node, bodies = owned()
    (result,) = inline(bodies[0], node)
    assert [each.op for each in graph] == ["Add", "Relu", "If"]
    assert [value.name for value in graph.constants] == ["one"]
    assert len(bodies[0]) == 0
    node.output.replace_uses(result)
    graph.erase(node)
    graph.verify()
    assert len(graph.inputs[0].uses) == 1
    assert all(use.user is not bodies[0] for use in result.uses), "the emptied body reads nothing any more"


def test_can_be_undone():
    graph, node, bodies = owned()
    text = str(graph)
    with graph.transaction() as journal:
        (result,) = inline(bodies[1], node)
        node.output.replace_uses(result)
        graph.erase(node)
        journal.rollback()
    assert str(graph) == text
    graph.verify()


def test_refuses_bodies_with_inputs_and_owners_without_a_graph():
    graph, node, bodies = owned()
    bodies[0].add_input("i")
    with pytest.raises(ValueError, match="cannot be moved"):
        inline(bodies[0], node)
    node.output.replace_uses(graph.inputs[0])
    graph.erase(node)
    with pytest.raises(ValueError, match="cannot be moved"):
        inline(bodies[1], node)
