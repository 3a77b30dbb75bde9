import io
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import graphopt as go
from graphopt.errors import EquivalenceError, PassError, VerifyError
from graphopt.ir import DType, Graph, Node, TensorType, difference
from graphopt.ir.text import read_text
from graphopt.pipeline import Changes, Context
from graphopt.pipeline.instruments import CostDelta, Equivalence, PrintGraph, Reproducer, Verify
from graphopt.pipeline.manager import run_pipeline
from tests.pipeline.passes import small_graph
from tests.processes import run_python


def run(graph, pipeline, *instruments, **kwargs):
    return run_pipeline(graph, pipeline, Context(graph, **kwargs), instruments)


# -- verify


def test_verify_finds_what_a_pass_broke():
    run(small_graph(), "test-break")
    with pytest.raises(VerifyError, match="after pass 'test-break'"):
        run(small_graph(), "test-break", Verify())


# -- equivalence


def check_of(graph, pipeline, **kwargs):
    return run(graph, pipeline, Equivalence(**kwargs)).passes[-1].checks["equivalence"]


def test_exact_is_measured():
    check = check_of(small_graph(), "test-double-negation")
    assert check["contract"] == "exact"
    assert check["max_abs"] == 0
    assert check["summary"] == "exact to 0.0e+00"


@pytest.mark.parametrize("silent", ["false", "true"])
def test_exact_pass_that_lies_is_caught_and_undone(silent):
    """Also when it says that it changed nothing."""
    graph = small_graph()
    before = graph.clone()
    with pytest.raises(EquivalenceError, match=r"promised exact results and is off by 5\.00e-01"):
        run(graph, f"test-scale{{factor=1.5,silent={silent}}}", Equivalence())
    assert difference(graph, before) is None


def test_tolerance_decides():
    check = check_of(small_graph(), "test-scale{factor=1.01}", tolerance=0.02)
    assert check["max_rel"] == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(EquivalenceError, match=r"tolerance 0\.005"):
        check_of(small_graph(), "test-scale{factor=1.01}", tolerance=0.005)


def test_lenient_equivalence_only_reports():
    assert check_of(small_graph(), "test-scale{factor=2}", strict=False)["summary"] == "not exact to 1.0e+00"


def test_masked_is_compared_with_the_masked_original():
    assert check_of(small_graph(), "test-drop-channel")["summary"].startswith("masked to ")
    with pytest.raises(EquivalenceError, match="promised masked"):
        check_of(small_graph(), "test-drop-channel{lie=true}")


class KeepSome(type(go.pipeline.resolve("test-drop-channel")[0])):
    """Keep some channels, and report these (or, with a lie, others)."""

    def run(self, graph, context):
        w, v = graph.constants
        kept = [k for k in range(2048) if k % 8 in (0, 1, 4, 5)]
        w.data, v.data = w.data[:, kept], v.data[kept]
        w.type, v.type = TensorType.of(w.data), TensorType.of(v.data)
        kept = [(k + self.lie) % 2048 for k in kept]
        return Changes(True, kept={"w": {1: sorted(kept)}, "v": {0: sorted(kept)}})


def test_rounding_is_no_broken_promise_of_a_masked_pass():
    """Large terms cancel: the order in which they are added up decides what is left in float32."""
    graph, generator = small_graph(), torch.Generator().manual_seed(0)
    w, v = graph.constants
    w.data = torch.rand(4, 1024, generator=generator).repeat_interleave(2, 1)
    large = torch.randint(0, 1 << 17, (1024, 3), generator=generator).float()
    v.data = torch.stack([large, 0.125 - large], 1).reshape(2048, 3)
    w.type, v.type = TensorType.of(w.data), TensorType.of(v.data)
    twin = graph.clone()
    check = run(graph, [KeepSome()], Equivalence(inputs=[torch.rand(2, 4, generator=generator)])).passes[0].checks
    assert check["equivalence"]["max_rel"] > 1e-4
    assert check["equivalence"]["summary"].endswith("by rounding (not in float64)")
    with pytest.raises(EquivalenceError, match=r"tolerance 0\.0001"):  # which somebody asked for
        run(twin.clone(), [KeepSome()], Equivalence(1e-4, inputs=[torch.rand(2, 4, generator=generator)]))
    with pytest.raises(EquivalenceError, match="promised masked"):
        run(twin, [KeepSome(lie=True)], Equivalence(inputs=[torch.rand(2, 4, generator=generator)]))


def test_each_pass_is_compared_with_what_the_one_before_left():
    report = run(small_graph(), "test-drop-channel,test-double-negation,test-drop-channel", Equivalence())
    assert all(entry.checks["equivalence"]["max_rel"] < 1e-6 for entry in report.passes)


def test_approximate_is_reported_and_never_refused():
    check = check_of(small_graph(), "test-approximate-scale{factor=1.1}")
    assert check["sqnr_db"] == pytest.approx(20, abs=0.1)
    assert check["summary"] == "output SQNR 20.0 dB"


def test_changed_shape_or_type_is_no_approximation():
    class Halve(type(go.pipeline.resolve("test-approximate-scale")[0])):
        def run(self, graph, context):
            graph.set_input(0, graph.add("Cast", graph.outputs[0], to=int(DType.FLOAT64)))
            return True

    with pytest.raises(EquivalenceError, match="changed shapes or element types"):
        run(small_graph(), [Halve()], Equivalence())


def test_given_inputs_and_data_are_used():
    zeros = torch.zeros(2, 4)
    assert check_of(small_graph(), "test-scale{factor=2}", inputs=[zeros])["max_abs"] == 0
    graph = small_graph()
    report = run(graph, "test-scale{factor=2}", Equivalence(), data=[zeros])
    assert report.passes[0].checks["equivalence"]["max_abs"] == 0


def test_only_a_few_rows_of_the_data_are_run(monkeypatch):
    rows = []
    real = go.pipeline.instruments.equivalence.run
    monkeypatch.setattr(
        "graphopt.pipeline.instruments.equivalence.run", lambda g, xs: (rows.append(len(xs[0])), real(g, xs))[1]
    )
    run(small_graph(), "test-double-negation", Equivalence(), data=[torch.zeros(64, 4)])
    run(small_graph(batch=64), "test-double-negation", Equivalence(), data=[torch.zeros(64, 4)])
    assert rows == [4, 4, 64, 64]


def test_graph_that_cannot_be_executed_is_left_unchecked():
    graph = small_graph()
    graph.set_input(0, graph.append(Node("Secret", [graph.outputs[0]], domain="my.domain")).output)
    check = check_of(graph, "test-scale{factor=2}")
    assert check["summary"] == "unchecked: operator my.domain::Secret cannot be executed with torch"


def test_random_inputs_that_do_not_fit_are_no_verdict_but_given_ones_are():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.INT64, ("n",)))
    table = graph.add_constant(torch.zeros(1, 3), "table")
    graph.add_output(graph.add("Gather", table, x), "y")
    assert check_of(graph, "test-scale").get("summary", "").startswith("unchecked: ")
    with pytest.raises(PassError):
        run(graph, "test-scale", Equivalence(), data=[torch.tensor([0, 5])])


def test_random_graphs_are_not_held_to_their_numbers():
    graph = small_graph()
    noise = graph.append(Node("RandomNormalLike", [graph.outputs[0]], {"scale": 0.0})).output
    graph.set_input(0, graph.add("Add", graph.outputs[0], noise))
    with pytest.raises(EquivalenceError):  # a random operator that plays no part
        check_of(graph.clone(), "test-scale{factor=2}")
    noise.producer.attributes["scale"] = 1.0
    check_of(graph, "test-scale{factor=2}")


def test_one_instrument_may_watch_several_graphs():
    watch = Equivalence()
    for batch in (2, 3):
        run(small_graph(batch=batch), "test-double-negation", watch)


def test_checking_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    run(small_graph(), "test-double-negation", Equivalence())
    assert torch.equal(torch.get_rng_state(), state)


# -- cost, print


def test_cost_before_and_after():
    report = run(small_graph(), "test-drop-channel,test-double-negation{count=0}", CostDelta())
    first, second = report.passes
    assert (first.before.weights, first.after.weights) == (56, 49)
    assert (first.before.macs, first.after.macs) == (56, 49)
    assert (first.before.weight_bytes, first.after.nodes) == (224, 3)
    assert second.before == second.after == first.after
    assert "56 -> 49 weights" in str(report)
    assert "56 -> 49 MACs" in str(report)


def test_print_shows_the_difference_only_where_there_is_one():
    stream = io.StringIO()
    run(small_graph(), "test-double-negation,test-double-negation{count=0}", PrintGraph(stream=stream))
    text = stream.getvalue()
    assert "--- before test-double-negation\n+++ after test-double-negation\n" in text
    assert sum(line.startswith("+") and "Neg" in line for line in text.splitlines()) == 2
    assert "count=0" not in text


def test_print_of_whole_graphs(capsys):
    graph = small_graph()
    run(graph, "test-double-negation", PrintGraph(diff=False))
    assert capsys.readouterr().err == f"// after test-double-negation\n{graph}\n"


# -- reproducer


def test_reproducer_replays_the_crash_through_the_command_line(tmp_path):
    graph = small_graph()
    folder = tmp_path / "a folder"
    with pytest.raises(PassError, match="replay it with: graphopt optimize") as caught:
        run(
            graph, "test-double-negation,test-crash{error='two words'},test-scale", Reproducer(folder), seed=7,
            data=[(torch.ones(5, 4), torch.arange(5))],
        )  # fmt: skip
    note = json.loads((folder / "crash.json").read_text())
    assert note["seed"] == 7
    assert note["error"] == "RuntimeError: what a bug"
    assert note["pipeline"] == 'test-crash{error="two words"},test-scale'
    assert difference(read_text(folder / "graph.txt"), graph) is None
    command = re.search("replay it with: (.*)", str(caught.value))[1]
    assert command == note["replay"]
    program, *arguments = shlex.split(command)
    assert program == "graphopt"
    code = "import tests.pipeline.passes, graphopt.cli; graphopt.cli.main()"
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}
    again = run_python("-c", code, *arguments, cwd=tmp_path, env=environment)
    assert again.returncode == 2
    assert b"failed with RuntimeError: what a bug" in again.stderr
    assert not (folder / "out.onnx").exists()


def test_broken_promises_leave_a_reproducer_and_users_mistakes_do_not(tmp_path):
    with pytest.raises(EquivalenceError, match="replay it with"):
        run(small_graph(), "test-scale{factor=2}", Equivalence(), Reproducer(tmp_path / "a"))
    assert (tmp_path / "a" / "graph.txt").exists()
    with pytest.raises(go.GraphoptError, match="not these samples"):
        run(small_graph(), "test-crash{error=data}", Reproducer(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_reproducer_that_cannot_be_written_does_not_hide_the_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PassError, match=r"what a bug.*no reproducer could be written"):
        run(small_graph(), "test-crash", Reproducer(tmp_path / "file" / "folder"))
