import gc

import pytest
import torch

import graphopt as go
from graphopt.errors import DataError, OptionError, PassError, PipelineError, ShapeError, VerifyError
from graphopt.ir import difference
from graphopt.pipeline import Context, Pass, all_aliases, all_passes, describe, register, register_alias, resolve
from graphopt.pipeline.instruments import Instrument, Reproducer
from graphopt.pipeline.manager import Group, flatten, run_pipeline
from graphopt.pipeline.options import build, option_infos
from tests.pipeline.passes import DoubleNegation, Scale, small_graph


def run(graph, pipeline, **kwargs):
    return run_pipeline(graph, pipeline, Context(graph, kwargs.pop("data", None)), **kwargs)


# -- resolving


def test_text_and_passes_mix():
    steps = resolve(["test-scale{factor=2},test-only-conv", DoubleNegation(3)])
    assert [describe(step) for step in steps] == [
        "test-scale{factor=2.0}",
        "test-only-conv",
        "test-double-negation{count=3}",
    ]
    assert resolve("") == []


@pytest.mark.parametrize("name", ["test-alias", "test-repeat", "test-nested", *sorted(all_aliases())])
def test_description_of_an_alias_reads_back(name):
    (group,) = resolve(name)
    assert isinstance(group, Group)
    assert resolve(describe(group)) == [group]


def test_description_shows_only_what_differs_from_the_defaults():
    for name, cls in all_passes().items():
        if all(option.default for option in option_infos(cls)):  # the others need options
            assert describe(cls()) == name
    step = DoubleNegation(places=("a", "b.*"))
    assert describe(step) == "test-double-negation{places=[a,b.*]}"
    assert resolve(describe(step)) == [step]


def test_options_of_an_alias_go_to_the_passes_that_have_them():
    (group,) = resolve("test-alias{factor=3}")
    assert group.passes == (DoubleNegation(2), Scale(3.0))
    (nested,) = resolve("test-nested{count=1,factor=0.5}")
    assert next(flatten([nested])) == DoubleNegation(1, ("a",))
    assert Scale(0.5) in list(flatten([nested]))


@pytest.mark.parametrize(
    ("pipeline", "error", "words"),
    [("fuze", PipelineError, "no pass 'fuze'; did you mean 'fuse'"), ("zzzzz", PipelineError, "graphopt passes"),
     ("test-scale{facto=1}", OptionError, "no option 'facto'.*did you mean 'factor'"),
     ("test-alias{facto=1}", OptionError, "'test-alias' has no option 'facto'.*did you mean 'factor'"),
     ("test-scale{factor=x}", OptionError, "'x' is not a number"),
     ("prune-channels{ratio=1}", OptionError, "give 0 <= ratio < 1")],
)  # fmt: skip
def test_unknown_names_fail_before_anything_runs(pipeline, error, words):
    graph = small_graph()
    before = str(graph)
    with pytest.raises(error, match=words):
        run(graph, f"test-double-negation,{pipeline}")
    assert str(graph) == before


def test_missing_data_fails_before_anything_runs():
    graph = small_graph()
    with pytest.raises(DataError, match="'test-needs-data' needs data"):
        run(graph, "test-double-negation,test-needs-data")
    assert len(graph) == 3
    assert run(graph, "test-needs-data", data=[torch.zeros(1, 4)]).passes[0].modified is False


def test_names_are_taken_once():
    with pytest.raises(PipelineError, match=r"'test-scale' is taken by .*Scale"):
        register("test-scale")(DoubleNegation)
    with pytest.raises(PipelineError, match="taken by an alias"):
        register("test-alias")(DoubleNegation)
    with pytest.raises(PipelineError, match="'test-scale' is taken"):
        register_alias("test-scale", "fuse")
    assert register("test-scale")(Scale) is Scale  # a module that is imported again


def test_a_pass_without_run_says_so():
    with pytest.raises(TypeError, match=r"Pass does not define run\(\)"):
        Pass().run(small_graph(), None)


# -- running


def test_report_tells_what_each_pass_did():
    graph = small_graph()
    report = run(graph, "test-double-negation{count=2},test-only-conv,test-double-negation{count=0}")
    first, second, third = report.passes
    assert (first.modified, first.counts, first.notes) == (True, {"pairs": 2}, ("as before",))
    assert first.seconds > 0
    assert (second.modified, second.skipped) == (False, "the graph has none of Conv")
    assert (third.modified, third.skipped) == (False, "")
    assert report.modified
    assert report.of("test-double-negation") is third
    with pytest.raises(KeyError):
        report.of("fuse")


def test_shapes_are_current_after_every_pass():
    graph = small_graph()
    run(graph, "test-double-negation")
    assert str(graph.outputs[0].type) == "float32[batch, 3]"


def test_alias_repeats_until_nothing_changes():
    graph = small_graph()
    report = run(graph, "test-repeat")
    assert [entry.name for entry in report.passes] == ["test-once", "test-only-conv"] * 3
    assert [entry.modified for entry in report.passes[::2]] == [True, True, False]


def test_collector_is_back_after_success_and_failure():
    assert gc.isenabled()
    run(small_graph(), "test-scale")
    with pytest.raises(PassError):
        run(small_graph(), "test-crash")
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [("test-crash", PassError, r"pass 'test-crash' failed with RuntimeError: what a bug"),
     ("test-crash{error=data}", DataError, "not these samples; others"),
     ("test-break", VerifyError, "after pass 'test-break': "),
     ("test-bad-shape", ShapeError, "after pass 'test-bad-shape': "),
     ("test-scale{factor=2}", go.GraphoptError, "after pass 'test-scale{factor=2.0}': it promised exact")],
)  # fmt: skip
def test_a_failing_pass_leaves_the_graph_as_it_was(name, error, words):
    graph = small_graph()
    go.optimize(graph, "test-double-negation")
    before, text = graph.clone(), str(graph)
    with pytest.raises(error, match=words):
        go.optimize(graph, f"test-double-negation{{count=0}},{name},test-scale")
    assert difference(graph, before) is None
    assert str(graph) == text
    graph.verify()
    assert go.optimize(graph, "test-double-negation").modified  # and it can be worked on


def test_what_ran_before_the_failing_pass_stays():
    graph = small_graph()
    with pytest.raises(PassError):
        go.optimize(graph, "test-double-negation,test-crash")
    assert [node.op for node in graph.nodes][-2:] == ["Neg", "Neg"]


def test_foreign_errors_keep_their_cause_and_say_that_nothing_happened():
    with pytest.raises(PassError) as caught:
        run(small_graph(), "test-crash")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "the graph is as before the pass" in str(caught.value)


def test_interruption_undoes_the_pass_too():
    class Interrupt(Instrument):
        def after(self, *args):
            raise KeyboardInterrupt

    graph = small_graph()
    before = graph.clone()
    with pytest.raises(KeyboardInterrupt):
        run(graph, "test-double-negation", instruments=[Interrupt()])
    assert difference(graph, before) is None


def test_instruments_see_every_pass_that_runs():
    class Log(Instrument):
        def __init__(self):
            self.calls = []

        def before(self, step, graph, context, entry):
            self.calls.append(f"before {entry.name}")

        def after(self, step, graph, context, changes, entry):
            self.calls.append(f"after {entry.name} {changes.modified}")

        def failed(self, step, graph, context, error, rest):
            self.calls.append(f"failed {rest} {len(graph)}")
            return "look here"

    log = Log()
    with pytest.raises(PassError, match="look here"):
        run(small_graph(), "test-once,test-only-conv,test-alias{count=0},test-crash,test-scale", instruments=[log])
    assert log.calls == [
        "before test-once", "after test-once True",
        "before test-double-negation{count=0}", "after test-double-negation{count=0} False",
        "before test-scale", "after test-scale True",
        "before test-crash", "failed test-crash,test-scale 5",
    ]  # fmt: skip


def test_rest_of_an_alias_starts_at_the_failing_pass(tmp_path):
    register_alias("test-crashing", "test-once,test-crash,test-scale")
    with pytest.raises(PassError, match=r"-p test-crash,test-scale,test-only-conv --seed"):
        run(small_graph(), "test-crashing,test-only-conv", instruments=[Reproducer(tmp_path)])


def test_progress_counts_passes_and_closes():
    events = []

    def progress(items, description, total):
        events.append((description, total))
        try:
            for item in items:
                events.append(item)
                yield item
        finally:
            events.append("closed")

    graph = small_graph()
    run_pipeline(graph, "test-alias,test-once", Context(graph, progress=progress))
    assert events == [("passes", 3), 0, 1, 2, "closed"]
    events.clear()
    with pytest.raises(PassError):
        run_pipeline(graph, "test-crash,test-once", Context(graph, progress=progress))
    assert events == [("passes", 2), 0, "closed"]


# -- what newcomers give


@pytest.mark.parametrize(("given", "kind"), [(torch.nn.ReLU(), "a ReLU"), ("model.onnx", "a str"), (None, "None")])
@pytest.mark.parametrize(
    "function",
    [lambda given: go.optimize(given, "fuse"), go.to_torch, go.to_onnx, lambda given: go.save(given, "x.onnx")],
)
def test_what_is_no_graph(given, kind, function):
    with pytest.raises(OptionError, match=rf"{kind} is no graph .*go\.capture\(module, args\) or go\.load\(path\)"):
        function(given)


@pytest.mark.parametrize(
    ("pipeline", "kind"),
    [(None, "None"), (["fuse", 3], "an int"), ([torch.nn.ReLU()], "a ReLU"), ([Pass], "the class Pass")],
)
def test_what_is_no_pass(pipeline, kind):
    with pytest.raises(PipelineError, match=f"{kind} is no pass"):
        go.optimize(small_graph(), pipeline)


def test_what_cannot_be_registered():
    with pytest.raises(PipelineError, match="'two words' is no name"):
        register("two words")(DoubleNegation)
    with pytest.raises(PipelineError, match="int is no pass"):
        register("number")(int)
    with pytest.raises(PipelineError, match="is no name"):
        register_alias("a,b", "fuse")
    assert not {"two words", "number"} & set(all_passes())
    assert "a,b" not in all_aliases()


def test_a_forgotten_dataclass_is_named():
    class Forgetful(Pass):
        name = "forgetful"
        factor: int = 3

    with pytest.raises(OptionError, match=r"Forgetful is no dataclass: write @dataclass\(frozen=True\) above it"):
        build(Forgetful, {"factor": 2})


def test_values_that_no_pass_asks_for_are_refused():
    for pipeline in ("simplify,finetune", "simplify", iter([DoubleNegation()])):
        with pytest.raises(OptionError, match=r"no pass asks for 'techer'.*did you mean 'teacher'"):
            go.optimize(small_graph(), pipeline, techer=None)
    assert go.optimize(small_graph(), iter([DoubleNegation()]), loss=print).passes[0].modified  # others would read it

    class Asking(DoubleNegation):
        takes = frozenset({"ruler"})

    assert go.optimize(small_graph(), [Asking()], ruler=3).passes[0].modified
