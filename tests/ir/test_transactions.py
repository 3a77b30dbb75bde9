import contextlib
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import DType, Graph, Node, TensorType, difference, print_graph, verify
from tests.ir.graphs import random_edit, random_graph, uses_from_inputs

# Drawing each number from hypothesis is ten times slower, and a failing seed is as good.
RANDOM = st.integers(0, 1 << 32).map(random.Random)
MANY = settings(max_examples=150)


class Stop(Exception):
    pass


def state(graph: Graph) -> tuple:
    """Everything that a rollback must bring back, by identity where identity counts."""
    scopes = list(graph.graphs())
    return (
        scopes,
        [list(s.nodes) for s in scopes],
        [list(s.values()) for s in scopes],
        [list(n.attributes.items()) for n in graph.walk()],
        {v: set(v.uses) for s in scopes for v in s.values()},
        [(n.graph, n.bodies, [b.owner for b in n.bodies]) for n in graph.walk()],
        set(graph._dirty),
        print_graph(graph, weights=True),
    )


def _fail_after(rng: random.Random, graph: Graph, edits: int) -> None:
    with graph.transaction():
        for index in range(edits):
            with graph.transaction() if index % 2 else contextlib.nullcontext():
                random_edit(rng, graph)
        raise Stop


def assert_consistent(graph: Graph) -> None:
    verify(graph)
    for value, uses in uses_from_inputs(graph).items():
        assert set(value.uses) == uses


@MANY
@given(RANDOM, st.integers(1, 12))
def test_edits_keep_a_graph_well_formed(rng, edits):
    graph = random_graph(rng)
    assert_consistent(graph)
    for _ in range(edits):
        before = graph.version
        random_edit(rng, graph)
        assert graph.version >= before
        assert_consistent(graph)


@MANY
@given(RANDOM, st.integers(1, 12))
def test_rollback_brings_everything_back(rng, edits):
    graph = random_graph(rng)
    if rng.random() < 0.5:
        graph.take_dirty()
    copy, before = graph.clone(), state(graph)
    with pytest.raises(Stop):
        _fail_after(rng, graph, edits)
    assert_consistent(graph)
    assert difference(graph, copy, provenance=True) is None
    assert state(graph) == before


@MANY
@given(RANDOM, st.integers(1, 5), st.integers(0, 2))
def test_nested_transactions(rng, edits, failing):
    """Inner transactions fail or join; the outer one undoes what joined, or keeps it."""
    graph = random_graph(rng)
    before = state(graph)
    with graph.transaction() as outer:
        for _ in range(edits):
            random_edit(rng, graph)
        middle = state(graph)
        with pytest.raises(Stop):
            _fail_after(rng, graph, 2)
        assert state(graph) == middle
        with graph.transaction() as inner:
            random_edit(rng, graph)
            if failing == 0:
                inner.rollback()
        if failing == 0:
            assert state(graph) == middle
        if failing == 1:
            outer.rollback()
            assert state(graph) == before
    assert_consistent(graph)


def small() -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    graph.add_output(graph.add("Relu", x), "y")
    return graph


def test_version_moves_on_after_a_rollback():
    graph = small()
    with graph.transaction() as journal:
        graph.outputs[0].type = TensorType(DType.FLOAT32, (2,))
        inside = graph.version
        journal.rollback()
    assert graph.version > inside


def test_a_transaction_without_edits_is_empty():
    graph = small()
    with graph.transaction() as journal:
        graph.take_dirty()
        graph.outputs[0].name = ""
    assert journal.is_empty
    with graph.transaction() as journal:
        graph.outputs[0].name = "z"
    assert len(journal) == 1


def test_rollback_does_not_mark_and_restores_what_was_dirty():
    graph = small()
    [relu] = graph.nodes
    assert graph.take_dirty() == [relu]
    with graph.transaction() as journal:
        graph.inputs[0].type = TensorType(DType.FLOAT32, (3,))
        journal.rollback()
    assert graph.take_dirty() == []
    graph.inputs[0].type = TensorType(DType.FLOAT32, (4,))
    with graph.transaction() as journal:
        assert graph.take_dirty() == [relu]
        journal.rollback()
    assert graph.take_dirty() == [relu]


def test_constants_come_back_in_their_order():
    graph = Graph()
    constants = [graph.add_constant(torch.tensor(i)) for i in range(5)]
    with graph.transaction() as journal:
        graph.remove_constant(constants[1])
        graph.remove_constant(constants[3])
        added = graph.add_constant(torch.tensor(9))
        assert list(graph.constants) == [constants[0], constants[2], constants[4], added]
        journal.rollback()
    assert list(graph.constants) == constants
    last = graph.add_constant(torch.tensor(7))
    assert list(graph.constants) == [*constants, last]


def test_edits_of_an_erased_node_and_its_body_are_undone():
    graph = small()
    body = Graph("body")
    body.add_output(body.add("Neg", graph.inputs[0]), "b")
    owner = graph.append(Node("If", [graph.outputs[0]], {"then_branch": body}))
    before = state(graph)
    with graph.transaction() as journal:
        graph.erase(owner)
        assert len(graph.inputs[0].uses) == 1
        owner.op = "Other"
        owner.set_inputs([])
        owner.output.type = TensorType(DType.INT64, ())
        body.add("Exp", body.outputs[0])
        body.metadata["a"] = "b"
        journal.rollback()
    assert state(graph) == before


def test_rollback_after_the_block():
    graph = small()
    before = state(graph)
    with graph.transaction() as journal:
        graph.add("Exp", graph.inputs[0])
    journal.rollback()
    assert state(graph)[:6] == before[:6]


def test_in_place_changes_of_the_model_information_are_undone():
    graph = small()
    with graph.transaction() as journal:
        graph.model.domains["com.microsoft"] = 1
        graph.signature = object()
        journal.rollback()
    assert graph.model.domains == {}
    assert graph.signature is None


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(b="2"), lambda m: m.pop("a"), lambda m: m.popitem(), lambda m: m.clear(),
        lambda m: m.setdefault("c", "3"), lambda m: m.__ior__({"d": "4"}), lambda m: m.__delitem__("a"),
    ],
)  # fmt: skip
def test_every_change_of_metadata_is_undone(change):
    graph = small()
    graph.metadata["a"] = "1"
    with graph.transaction() as journal:
        change(graph.metadata)
        assert graph.metadata != {"a": "1"}
        journal.rollback()
    assert graph.metadata == {"a": "1"}
