import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import VerifyError
from graphopt.ir import Graph, Node, Use, Value, verify
from tests.ir.broken import branches, chain, fails
from tests.ir.graphs import random_graph


def test_good_graphs_pass():
    verify(chain()[0])
    verify(branches()[0])
    verify(Graph())


@settings(max_examples=100)
@given(st.integers(0, 1 << 32))
def test_random_graphs_pass(seed):
    graph = random_graph(random.Random(seed))
    verify(graph)
    for body in graph.graphs():
        verify(body)  # a body alone, which sees what is before its owner


# -- the list of nodes


def test_a_ring_of_nodes():
    graph, nodes = chain()
    nodes[2]._next = nodes[0]
    nodes[0]._prev = nodes[2]
    graph._first = nodes[0]
    fails(graph, "disagree|ring")


def test_a_ring_at_the_end():
    graph, nodes = chain()
    nodes[2]._next = nodes[2]
    fails(graph, "longer than the 3")


def test_a_broken_back_link():
    graph, nodes = chain()
    nodes[2]._prev = nodes[0]
    fails(graph, "links to and from the node disagree", "relu2")


def test_a_lost_tail():
    graph, nodes = chain()
    nodes[1]._next = None
    fails(graph, "ends after 2 of 3")


def test_a_wrong_last_node():
    graph, nodes = chain()
    graph._last = nodes[0]
    fails(graph, "ends after 3 of 3")


def test_order_numbers():
    graph, nodes = chain()
    nodes[1]._order = nodes[2]._order
    fails(graph, "order numbers do not ascend", "relu2")


def test_a_node_of_another_graph_in_the_list():
    graph, nodes = chain()
    nodes[1].graph = Graph()
    fails(graph, "not linked into this graph", "relu1")


# -- values


def test_a_value_defined_twice():
    graph, nodes = chain()
    graph._inputs.append(graph.inputs[0])
    graph.inputs[0].name = ""
    fails(graph, "no name")
    graph.inputs[0].name = "x"
    fails(graph, "two inputs are called 'x'")
    graph, nodes = chain()
    nodes[1]._outputs.append(nodes[1].output)
    fails(graph, "does not know its node", "relu1")
    graph, _, then, _ = branches()
    then._constants[next(iter(graph.constants))] = 0
    fails(graph, "%c is defined twice", "then")


def test_a_wrong_producer_or_index():
    graph, nodes = chain()
    nodes[1].output.producer = nodes[0]
    fails(graph, "does not know its node", "relu1")
    graph, nodes = chain()
    nodes[1].output.index = 1
    fails(graph, "does not know its node", "relu1")


def test_a_wrong_graph():
    graph, nodes = chain()
    nodes[0].output.graph = Graph()
    fails(graph, "which graph it is in", "%v0")


def test_a_wrong_type():
    graph, nodes = chain()
    nodes[0].output._type = "float32"
    fails(graph, "no ValueType")


def test_an_output_with_data():
    graph, nodes = chain()
    nodes[0].output._data = torch.zeros(2)
    fails(graph, "marked as an input or constant", "relu0")


# -- reads


def test_read_before_definition():
    graph, nodes = chain()
    nodes[2].set_input(0, graph.inputs[0])
    nodes[0].set_input(0, nodes[2].output)
    error = fails(graph, "input 0 reads %v2 before Relu 'relu2' defines it", "relu0")
    assert error.hint


def test_a_cycle_is_named():
    graph, nodes = chain()
    nodes[0].set_input(0, nodes[2].output)
    fails(graph, "cycle, Relu 'relu0' -> Relu 'relu1' -> Relu 'relu2' -> Relu 'relu0'")


def test_a_long_cycle_is_cut_short():
    graph, nodes = chain()
    x = nodes[2].output
    for _ in range(50):
        x = graph.add("Exp", x)
    nodes[0].set_input(0, x)
    fails(graph, r"\.\.\. 47 more -> Relu 'relu0'")


def test_a_cycle_through_a_body():
    graph, owner, then, _ = branches()
    [neg] = then.nodes
    neg.set_input(0, graph.add("Exp", owner.output))
    fails(graph, "cycle", "then_neg")


def test_a_node_that_reads_itself():
    graph, nodes = chain()
    nodes[1].set_input(0, nodes[1].output)
    fails(graph, "cycle, Relu 'relu1' -> Relu 'relu1'")


def test_a_read_of_an_erased_value():
    graph, nodes = chain()
    graph._unlink(nodes[0])
    fails(graph, "whose node was erased", "relu1")


def test_a_read_of_a_value_in_no_graph():
    graph, nodes = chain()
    nodes[0].set_input(0, Value(name="nowhere"))
    fails(graph, "%nowhere, which is in no graph", "relu0")


def test_a_read_from_a_sibling_body():
    graph, _, then, other = branches()
    [neg] = other.nodes
    neg.set_input(0, then.outputs[0])
    fails(graph, "of graph 'then', which cannot be seen from here", "else_neg")


def test_a_read_into_a_body():
    graph, _, then, _ = branches()
    graph.add("Exp", then.outputs[0], name="reader")
    fails(graph, "of graph 'then', which cannot be seen", "reader")


def test_a_body_that_reads_its_owner():
    graph, owner, then, _ = branches()
    [neg] = then.nodes
    neg.set_input(0, owner.output)
    fails(graph, "cycle, If 'choice' -> If 'choice'", "then_neg")


def test_a_body_that_reads_what_comes_after_its_owner():
    graph, _, then, _ = branches()
    [neg] = then.nodes
    neg.set_input(0, graph.add("Exp", graph.inputs[0]))
    fails(graph, "before Exp defines it", "then_neg")
    with pytest.raises(VerifyError, match="before Exp defines it"):
        verify(then)


def test_an_output_that_is_not_defined():
    graph, _ = chain()
    graph.set_input(0, Value(name="nowhere"))
    fails(graph, "output 'y' reads %nowhere", "graph 'main'")


# -- uses


def test_a_use_that_is_missing():
    graph, nodes = chain()
    nodes[0].output._uses.clear()
    assert fails(graph, "input 0 reads %v0, whose uses do not list it", "relu1").hint
    graph, nodes = chain()
    nodes[2].output._uses.clear()
    fails(graph, "output 'y' reads %v2, whose uses do not list it")


def test_a_use_too_many():
    graph, nodes = chain()
    nodes[0].output._uses[Use(nodes[2], 0)] = None
    fails(graph, "uses of %v0 list index 0 of a reader that reads something else", "relu2")
    graph, nodes = chain()
    nodes[0].output._uses[Use(graph, 5)] = None
    fails(graph, "uses of %v0 list index 5", "graph 'main'")


def test_a_read_from_an_unlinked_body():
    graph, nodes = chain()
    loose = Graph("loose")
    loose.add("Exp", nodes[0].output, name="outsider")
    fails(graph, "read from outside the graph", "outsider")


def test_a_read_by_an_erased_node():
    graph, nodes = chain()
    stray = Node("Exp", [nodes[0].output], name="stray")
    nodes[0].output._uses[Use(stray, 0)] = None
    fails(graph, "read from outside the graph", "stray")


# -- attributes and bodies


@pytest.mark.parametrize("bad", [None, object(), {"a": 1}, (1, (2, None)), np.float32(1), np.zeros(2), torch.float32])
def test_attributes_of_other_types(bad):
    graph, nodes = chain()
    nodes[1].attributes["strange"] = bad
    fails(graph, "attribute 'strange' holds", "relu1")


def test_a_node_without_an_operator():
    graph, nodes = chain()
    nodes[1].op = ""
    fails(graph, "no operator")


def test_a_body_with_two_owners():
    graph, owner, then, _ = branches()
    graph.append(Node("If", owner.inputs, {"then_branch": then}, name="thief"))
    assert "clone" in (fails(graph, "body 'then' belongs to another node", "choice").hint or "")


def test_deep_nesting():
    graph, x = Graph(), None
    x = graph.add_input("x")
    inner = None
    for _ in range(150):
        body = Graph("b")
        if inner is None:
            body.add_output(body.add("Relu", x), "y")
        else:
            body.add_output(body.append(Node("If", [x], {"then_branch": inner})).output, "y")
        inner = body
    graph.append(Node("If", [x], {"then_branch": inner}))
    verify(graph)
    verify(graph.clone())
    assert sum(1 for _ in graph.walk()) == 151
    assert sum(1 for _ in graph.graphs()) == 151


def test_the_number_of_steps_is_linear():
    """Counted, not timed: twice the graph is twice the function calls."""

    def calls(size: int) -> int:
        graph = Graph()
        x = graph.add_input("x")
        for _ in range(size):
            x = graph.add("Add", x, x)
        graph.add_output(x, "y")
        count = 0

        def profile(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(profile)
        try:
            verify(graph)
        finally:
            sys.setprofile(None)
        return count

    assert calls(2000) < 2.1 * calls(1000)
