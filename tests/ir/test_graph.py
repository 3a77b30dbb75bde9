import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import DType, Graph, Node, Parameter, TensorType, Use, Value, captured, verify
from graphopt.ir.nodelist import NodeList
from tests.ir.graphs import uses_from_inputs


def chain(count: int = 4) -> tuple[Graph, list[Node]]:
    graph = Graph()
    x = graph.add_input("x")
    for index in range(count):
        x = graph.add("Relu", x, name=str(index))
    graph.add_output(x, "y")
    return graph, list(graph.nodes)


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph]


# -- order


def test_linking():
    graph, nodes = chain(2)
    graph.insert_before(nodes[0], Node("A", name="before"))
    graph.insert_after(nodes[0], Node("A", name="after"))
    graph.prepend(Node("A", name="first"))
    graph.append(Node("A", name="last"))
    assert names(graph) == ["first", "before", "0", "after", "1", "last"]
    assert [n.name for n in reversed(graph)] == names(graph)[::-1]
    assert len(graph) == 6
    assert nodes[0].prev.name == "before"
    assert nodes[0].next.name == "after"
    verify(graph)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), max_size=120))
def test_order_agrees_with_a_list(inserts):
    graph, mirror = Graph(), []
    for place, after in inserts:
        node = Node("A")
        if not mirror:
            graph.append(node)
            mirror.append(node)
            continue
        index = place % len(mirror)
        (graph.insert_after if after else graph.insert_before)(mirror[index], node)
        mirror.insert(index + after, node)
    assert list(graph) == mirror
    assert all(a.is_before(b) and not b.is_before(a) for a, b in itertools.pairwise(mirror))


@pytest.mark.parametrize("pattern", ["before one", "after one", "after the last", "at the front", "alternating"])
def test_thousands_of_inserts_at_one_spot(pattern, monkeypatch):
    """The order stays right, and the work per insert does not grow with the graph."""
    touched = 0
    relabel = NodeList._relabel

    def counting(self, node):
        nonlocal touched
        count = relabel(self, node)
        touched += count
        return count

    monkeypatch.setattr(NodeList, "_relabel", counting)
    graph, nodes = chain(2000)
    anchor = spot = nodes[1000]
    inserts = 5000
    for number in range(inserts):
        node = Node("A")
        if pattern == "before one" or (pattern == "alternating" and number % 2):
            graph.insert_before(anchor, node)
        elif pattern == "at the front":
            graph.prepend(node)
        elif pattern == "after the last":
            graph.insert_after(spot, node)
            spot = node
        else:
            graph.insert_after(anchor, node)
    orders = [node._order for node in graph]
    assert len(orders) == 2000 + inserts
    assert all(a < b for a, b in itertools.pairwise(orders))
    assert touched < 40 * inserts


# -- walking while editing


def test_erasing_while_walking():
    graph, _ = chain(5)
    for node in graph:
        for value in node.outputs:
            value.replace_uses(node.inputs[0])
        graph.erase(node)
    assert not list(graph)
    assert graph.outputs == [graph.inputs[0]]


def test_a_walk_visits_what_is_linked_in_ahead_of_it():
    graph, _ = chain(2)
    seen = []
    for node in graph:
        seen.append(node.name)
        if node.name == "0":
            graph.insert_before(node, Node("A", name="behind"))
            graph.insert_after(node, Node("A", name="ahead"))
    assert seen == ["0", "ahead", "1"]


@pytest.mark.parametrize("forward", [True, False])
def test_a_walk_survives_anything_at_its_position(forward):
    """The node that stands next is erased, and so is the one being visited, in either order."""
    graph = Graph()
    for index in range(6):
        graph.append(Node("A", name=str(index)))
    seen = []
    for node in graph if forward else reversed(graph):
        seen.append(node.name)
        following = node.next if forward else node.prev
        if len(seen) == 1:
            graph.erase(node)
            graph.erase(following)
        elif len(seen) == 2:
            graph.erase(following)
            graph.erase(node)
    assert seen == (["0", "2", "4", "5"] if forward else ["5", "3", "1", "0"])


def test_a_walk_does_not_follow_a_node_that_is_moved():
    graph = Graph()
    nodes = [graph.append(Node("A", name=str(i))) for i in range(4)]
    other = Graph()
    seen = []
    for node in graph:
        seen.append(node.name)
        if node is nodes[0]:
            for moved in nodes[:2]:
                graph.erase(moved)
                other.append(moved)
        if seen == ["0", "2"]:
            graph.erase(node)
            graph.append(node)
    assert seen == ["0", "2", "3", "2"]
    assert names(other) == ["0", "1"]


def test_walks_that_are_given_up_leave_nothing_behind():
    graph, _ = chain()
    next(iter(graph))
    for _ in graph:
        break
    assert graph._cursors == []


# -- uses


def test_uses():
    graph, nodes = chain(3)
    x, a = graph.inputs[0], nodes[0].output
    assert list(a.uses) == [Use(nodes[1], 0)]
    nodes[2].set_inputs([a, None, a])
    assert list(a.uses) == [Use(nodes[1], 0), Use(nodes[2], 0), Use(nodes[2], 2)]
    assert a.users == [nodes[1], nodes[2]]
    nodes[2].set_input(-1, x)
    assert nodes[2].inputs == [a, None, x]
    a.replace_uses(x, where=lambda use: use.user is nodes[1])
    assert list(a.uses) == [Use(nodes[2], 0)]
    a.replace_uses(a)
    assert not a.is_output
    assert nodes[2].output.is_output
    verify(graph)


def test_outputs_are_read_like_inputs():
    graph, nodes = chain(2)
    graph.add_output(nodes[0].output)
    assert list(graph.output_names) == ["y", "output_1"]
    nodes[1].output.replace_uses(nodes[0].output)
    assert graph.outputs == [nodes[0].output] * 2
    graph.set_input(-1, graph.inputs[0])
    assert graph.outputs == [nodes[0].output, graph.inputs[0]]
    assert list(graph.output_names) == ["y", "output_1"]
    with pytest.raises(ValueError, match="1 outputs with 2 names"):
        graph.set_outputs([nodes[0].output], ["a", "b"])
    verify(graph)


def test_changing_the_outputs_of_a_body_marks_its_owner():
    graph, nodes = chain(1)
    body = Graph("b")
    body.add_output(body.add("Neg", nodes[0].output), "o")
    owner = graph.append(Node("If", [nodes[0].output], {"then_branch": body}))
    for change in (
        lambda: body.set_input(0, nodes[0].output),
        lambda: body.add_output(nodes[0].output, "p"),
        lambda: body.set_outputs(body.outputs[:1], ["o"]),
        lambda: setattr(nodes[0].output, "type", TensorType(DType.INT8, ())),
    ):
        graph.take_dirty()
        change()
        assert owner in graph.take_dirty()


def test_sweep():
    graph, nodes = chain(3)
    weight = graph.add_constant(torch.zeros(1), parameter=Parameter("w"))
    dead = graph.add("Mul", graph.add("Neg", nodes[0].output), weight)
    assert graph.sweep([dead]) == 2
    assert list(graph) == nodes
    assert list(graph.constants) == []
    assert graph.sweep([nodes[0].output, graph.inputs[0]]) == 0


def test_sweep_takes_what_only_a_dead_body_reads():
    graph, nodes = chain(1)
    inner = graph.add("Neg", nodes[0].output)
    body = Graph("b")
    body.add_output(body.add("Exp", inner), "o")
    owner = graph.append(Node("If", [nodes[0].output], {"then_branch": body}))
    assert graph.sweep([owner.output]) == 2
    assert list(graph) == nodes
    verify(graph)


# -- what is refused


def test_refusals():
    graph, nodes = chain()
    other, others = chain()
    constant = graph.add_constant(torch.zeros(1))
    graph.add("Neg", constant)
    for act, what in (
        (lambda: graph.append(nodes[0]), "linked into a graph already"),
        (lambda: graph.insert_before(others[0], Node("A")), "is not in graph 'main'"),
        (lambda: graph.insert_after(Node("A"), Node("A")), "is not in graph 'main'"),
        (lambda: graph.erase(others[-1]), "is not in graph 'main'"),
        (lambda: graph.erase(nodes[0]), "is still used"),
        (lambda: graph.remove_input(graph.inputs[0]), "is still used"),
        (lambda: graph.remove_constant(constant), "is still used"),
        (lambda: graph.add_constant(constant), "is no detached constant"),
        (lambda: graph.add_constant(Value()), "is no detached constant"),
        (lambda: graph.add_constant(nodes[0].output), "is no detached constant"),
    ):
        with pytest.raises(ValueError, match=what):
            act()
    verify(graph)
    verify(other)
    with pytest.raises(IndexError, match="has no input 3"):
        nodes[0].operand(3)


# -- bodies


def test_captured_values_come_in_the_order_of_their_use():
    graph = Graph()
    inputs = [graph.add_input(f"x{i}") for i in range(20)]
    bodies = []
    for part in (inputs[10:], inputs[:10]):
        inner = Graph("inner")
        inner.add_output(inner.add("Sum", *part[5:]), "i")
        body = Graph("b")
        body.add("Sum", *part[:5])
        body.add_output(body.append(Node("If", [part[0]], {"then_branch": inner})).output, "o")
        bodies.append(body)
    owner = graph.append(Node("If", [inputs[0]], {"then_branch": bodies[0], "else_branch": bodies[1]}))
    assert set(captured(owner)) == set(inputs)
    assert captured(owner)[:5] == inputs[10:15]
    assert captured(owner) == captured(owner)
    assert captured(Node("A", inputs)) == []


def test_erasing_an_owner_drops_what_its_bodies_read_and_keeps_the_bodies_whole():
    graph, nodes = chain(1)
    body = Graph("b")
    neg = body.append(Node("Neg", [nodes[0].output]))
    body.add_output(body.add("Exp", neg.output), "o")
    owner = graph.append(Node("If", [nodes[0].output], {"then_branch": body}))
    before = uses_from_inputs(graph)
    graph.erase(owner)
    assert [use.user for use in nodes[0].output.uses] == [graph]
    assert len(neg.output.uses) == 1
    graph.append(owner)
    assert uses_from_inputs(graph) == before
    verify(graph)


def test_replacing_a_body():
    graph, nodes = chain(2)
    bodies = []
    for node in nodes:
        bodies.append(Graph("b"))
        bodies[-1].add_output(bodies[-1].add("Neg", node.output), "o")
    owner = graph.append(Node("If", [nodes[0].output], {"then_branch": bodies[0]}))
    graph.take_dirty()
    owner.attributes["then_branch"] = bodies[1]
    assert bodies[0].owner is None
    assert set(graph.take_dirty()) == {owner, *bodies[1].nodes}
    bodies[0].set_outputs([], [])
    verify(graph)
    del owner.attributes["then_branch"]
    assert owner.bodies == []
    verify(graph)


def test_a_body_brings_its_dirty_nodes_along():
    graph, nodes = chain(1)
    body = Graph("b")
    inner = body.append(Node("Neg", [nodes[0].output]))
    graph.take_dirty()
    owner = graph.append(Node("If", [nodes[0].output], {"then_branch": body}))
    assert set(graph.take_dirty()) == {owner, inner}
    assert body.root is graph
    inner.set_input(0, None)
    assert graph.take_dirty() == [inner]
    inner.set_inputs([nodes[0].output])
    graph.erase(owner)
    assert graph.take_dirty() == []


def test_attributes_become_tuples():
    node = Node("A", attributes={"a": [1, [2, [3]]]})
    node.attributes["b"] = [[1], (2,)]
    assert dict(node.attributes) == {"a": (1, (2, (3,))), "b": ((1,), (2,))}
