import contextlib
import io

import pytest
import torch
from rich.console import Console

from graphopt.analysis.cost import Cost
from graphopt.errors import DataError, OptionError
from graphopt.ir import DType, Graph, TensorType
from graphopt.pipeline import Context, Data
from graphopt.pipeline.context import no_progress
from graphopt.pipeline.progress import RichProgress
from tests.pipeline.passes import small_graph


class Counting:
    made = 0

    def __init__(self, graph):
        type(self).made += 1
        self.graph = graph


def test_analyses_are_kept_until_the_graph_changes():
    graph = small_graph()
    context = Context(graph)
    Counting.made = 0
    first = context.get(Counting)
    assert context.get(Counting) is first
    assert isinstance(context.get(Cost), Cost)
    assert Counting.made == 1
    graph.set_input(0, graph.add("Neg", graph.outputs[0]))
    second = context.get(Counting)
    assert second is not first
    assert context.get(Counting) is second
    graph.inputs[0].type = TensorType.make(DType.FLOAT32, (5, 4))
    assert context.get(Counting) is not second
    assert str(graph.outputs[0].type) == "float32[5, 3]"  # shapes are current before an analysis looks


def test_undone_edits_do_not_leave_a_stale_analysis():
    graph = small_graph()
    context = Context(graph)
    before = context.get(Cost).macs
    with contextlib.suppress(KeyError), graph.transaction():
        graph.set_input(0, graph.add("MatMul", graph.outputs[0], graph.add_constant(torch.zeros(3, 3))))
        assert context.get(Cost).macs > before
        raise KeyError
    assert context.get(Cost).macs == before


def test_analyses_of_other_graphs_are_kept_apart():
    graph, other = small_graph(), small_graph()
    context = Context(graph)
    assert context.get(Counting, other).graph is other
    assert context.get(Counting).graph is graph


def test_data_is_asked_for_in_words():
    with pytest.raises(DataError, match=r"was given none; pass data=..., or --data FILE\.npz"):
        _ = Context(small_graph()).data
    graph = small_graph()
    data = Data([torch.zeros(1, 4)], graph)
    assert Context(graph, data).data is data
    assert Context(graph, data).has_data


def test_seed_and_options():
    graph = small_graph()
    context = Context(graph, seed=3, teacher="me", evaluate=lambda given: 3 if given is graph else 0)
    assert context.options == {"teacher": "me"}
    assert context.evaluate(graph) == 3
    assert torch.equal(torch.randn(3, generator=context.generator()), torch.randn(3, generator=context.generator()))


def test_no_progress():
    assert list(no_progress([1, 2], "x", 2)) == [1, 2]


@pytest.fixture
def terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=stream, force_terminal=True, width=60))
    return stream


def test_bars_inside_bars_share_one_display(terminal):
    progress = RichProgress()
    seen = [(a, b) for a in progress([1, 2], "outer", 2) for b in progress("xy", "inner")]
    assert seen == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert "outer" in terminal.getvalue()
    assert "inner" in terminal.getvalue()
    assert list(progress([3], "again")) == [3]  # and the display can be opened anew


def test_bars_go_away_with_an_error(terminal):
    progress = RichProgress()
    bar = progress([1, 2], "outer")
    next(bar)
    bar.close()
    assert list(progress([5], "next")) == [5]
    assert terminal.getvalue().count("\x1b[?25h") >= 2  # the cursor is shown again


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [(lambda graph: 1 / 0, "evaluate raised ZeroDivisionError: division by zero"),
     (lambda graph: "good", "evaluate returned 'good' .*return a number"),
     (lambda graph: None, "evaluate returned None"), (lambda graph: float("nan"), "evaluate returned nan"),
     (lambda graph: torch.ones(2), "evaluate returned tensor")],
)  # fmt: skip
def test_measures_that_give_no_number(evaluate, words):
    graph = small_graph()
    with pytest.raises(OptionError, match=words):
        Context(graph, evaluate=evaluate).evaluate(graph)
    assert Context(graph, evaluate=lambda graph: torch.tensor(0.5)).evaluate(graph) == 0.5


class Unread(list):
    """Samples that must not be looked at."""

    def __iter__(self):
        raise AssertionError("read")


def test_costs_are_those_of_the_sizes_in_the_data():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("batch", "width")))
    graph.add_output(graph.add("MatMul", graph.add("Transpose", x, perm=[1, 0]), x), "y")
    context = Context(graph, [torch.zeros(3, 5), torch.zeros(3, 7)])
    assert context.sizes == {"width": 5}
    assert context.cost().macs == 25
    assert context.cost() is context.cost()
    assert Context(graph).cost().macs == 1


def test_data_is_not_read_for_sizes_that_are_known():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("batch", 4)))
    graph.add_output(graph.add("Relu", x), "y")
    assert Context(graph, Unread()).sizes == {}
