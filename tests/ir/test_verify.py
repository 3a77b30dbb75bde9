import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import VerifyError
from graphopt.ir import DType, Graph, Node, Parameter, SequenceType, TensorType, Use, Value, verify
from tests.ir.graphs import random_graph


def chain() -> tuple[Graph, list[Node]]:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    graph.add_constant(torch.zeros(2), "c")
    for index in range(3):
        x = graph.add("Relu", x, name=f"relu{index}")
        x.name = f"v{index}"
    graph.add_output(x, "y")
    return graph, list(graph.nodes)


def branches() -> tuple[Graph, Node, Graph, Graph]:
    graph, nodes = chain()
    bodies = []
    for name in ("then", "else"):
        body = Graph(name)
        body.add_output(body.add("Neg", nodes[0].output, name=f"{name}_neg"), "b")
        bodies.append(body)
    owner = graph.append(
        Node("If", [nodes[1].output], {"then_branch": bodies[0], "else_branch": bodies[1]}, name="choice")
    )
    return graph, owner, bodies[0], bodies[1]


def fails(graph: Graph, what: str, where: str = "") -> VerifyError:
    with pytest.raises(VerifyError, match=what) as caught:
        verify(graph)
    assert where in (caught.value.where or "")
    return caught.value


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
