"""The commands at work, on torch and ONNX models."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import graphopt as go
from graphopt.cli import main
from graphopt.runtime.ort import OrtSession
from tests.cli.models import small
from tests.processes import run_python

ROOT = Path(__file__).parents[2]
SMALL = "tests.cli.models:small"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    module, args = small()
    go.save(go.capture(module, args), "model.onnx")
    return tmp_path


@pytest.fixture
def graphopt(folder, capsys, monkeypatch):
    """Runs a command and returns what it printed."""

    def run(*arguments, status=0, columns=120):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as caught:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        assert caught.value.code == status, captured
        assert captured.err == ""
        return captured.out

    return run


def check(path, tolerance=1e-4):
    module, args = small()
    want = module(*args).detach().numpy()
    np.testing.assert_allclose(OrtSession(path).run(args)[0], want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("model", [SMALL, "model.onnx"])
@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".txt"])
def test_optimize(model, ending, graphopt, folder):
    text = graphopt("optimize", model, "-p", "simplify,fuse", "-o", f"out{ending}")
    assert "fuse-conv-bn" in text
    assert "6 -> 5" in text
    assert "exact to" in text
    assert f"wrote out{ending} (" in text
    again = graphopt("diff", "model.onnx", f"out{ending}")
    assert "equal on the same random inputs" in again
    if ending == ".onnx":
        onnx.checker.check_model("out.onnx", full_check=True)
        check("out.onnx")
    if ending == ".pt2":
        module, args = small()
        exported = torch.export.load("out.pt2").module()
        torch.testing.assert_close(exported(*args), module(*args))


def test_optimize_prunes_and_reports(graphopt, folder):
    text = graphopt("optimize", SMALL, "-p", "fuse,prune-channels{ratio=0.5}", "-o", "o.onnx", "--report", "r.html")
    assert "masked to" in text
    assert "together: nodes 6 -> 5, weights 292 -> 132" in text
    assert "passes had nothing to do" in text
    assert "wrote r.html" in text
    assert "prune-channels" in (folder / "r.html").read_text()
    graphopt("optimize", SMALL, "-p", "prune-channels", "-o", "o.onnx", "--report", "r.json", "--quiet")
    report = json.loads((folder / "r.json").read_text())
    assert report["passes"][0]["after"]["weights"] < report["passes"][0]["before"]["weights"]


def test_quiet_says_nothing_and_print_diff_shows_the_edit(graphopt, capsys, folder):
    assert graphopt("optimize", SMALL, "-p", "fuse", "-o", "o.onnx", "-q") == ""
    with pytest.raises(SystemExit):
        main(["optimize", SMALL, "-p", "fuse", "-o", "o.onnx", "-q", "--print-diff"])
    assert "--- before fuse-conv-bn" in capsys.readouterr().err


def test_nothing_to_do(graphopt):
    text = graphopt("optimize", SMALL, "-p", "inline-if", "-o", "o.onnx")
    assert "1 pass had nothing to do" in text
    assert "wrote o.onnx" in text
    graphopt("optimize", SMALL, "-p", "", "-o", "o.onnx")


def test_data_and_seed(graphopt, folder):
    np.savez(
        "d.npz", input=np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype("f4"), labels=np.arange(8) % 4
    )
    text = graphopt("optimize", SMALL, "-p", "finetune{epochs=1}", "-o", "a.onnx", "--data", "d.npz", "--seed", "1")
    assert "loss" in text
    graphopt("optimize", SMALL, "-p", "prune-channels{criterion=random}", "-o", "1.onnx", "--seed", "1")
    graphopt("optimize", SMALL, "-p", "prune-channels{criterion=random}", "-o", "2.onnx", "--seed", "1")
    graphopt("optimize", SMALL, "-p", "prune-channels{criterion=random}", "-o", "3.onnx", "--seed", "2")
    one, two, three = (Path(f"{n}.onnx").read_bytes() for n in "123")
    assert one == two != three


def test_opset(graphopt):
    graphopt("optimize", SMALL, "-p", "fuse", "-o", "o.onnx", "--opset", "18")
    assert onnx.load("o.onnx").opset_import[0].version == 18


@pytest.mark.parametrize("model", [SMALL, "model.onnx", "model.txt", "model.pt2"])
def test_inspect(model, graphopt):
    if model in ("model.txt", "model.pt2"):
        graphopt("optimize", "model.onnx", "-p", "", "-o", model, "-q")
    text = graphopt("inspect", model)
    for words in ("nodes", "292", "27,", "float32[2, 3, 8, 8]", "BatchNormalization", "layers"):
        assert words in text, words
    assert "layers" not in graphopt("inspect", model, "--no-layers")
    facts = json.loads(graphopt("inspect", model, "--json"))
    assert facts["operators"]["Conv"] == 1
    assert facts["weights"] == 292
    assert "Conv" in graphopt("inspect", model, "--text")


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_any_width_of_terminal(columns, graphopt):
    graphopt("optimize", SMALL, "-p", "fuse,prune-channels", "-o", "o.onnx", columns=columns)
    for arguments in (("inspect", SMALL), ("passes",), ("explain", "prune-channels"), ("explain", "fuse"),
                      ("explain", "Conv")):  # fmt: skip
        text = graphopt(*arguments, columns=columns)
        assert max(map(len, text.splitlines())) <= max(columns, 20)


def test_passes(graphopt):
    text = graphopt("passes")
    for words in ("prune-channels", "masked", "Remove the least important channels", "fuse", "quantize"):
        assert words in text, words
    listed = json.loads(graphopt("passes", "--json"))
    assert listed["passes"]["prune-channels"]["contract"] == "masked"
    options = {option["name"]: option for option in listed["passes"]["prune-channels"]["options"]}
    assert options["ratio"]["default"] == "0.5"
    assert "simplify" in listed["aliases"]


def test_rules(graphopt):
    text = graphopt("passes", "--rules")
    assert "conv-batch-norm" in text
    listed = {rule["name"]: rule for rule in json.loads(graphopt("passes", "--rules", "--json"))}
    assert listed["conv-batch-norm"]["pass"] == "fuse-conv-bn"
    assert listed["conv-batch-norm"]["roots"] == ["BatchNormalization"]
    assert all(rule["doc"] for rule in listed.values())


def test_every_pass_and_alias_can_be_explained(graphopt):
    listed = json.loads(graphopt("passes", "--json"))
    for name, facts in listed["passes"].items():
        text = graphopt("explain", name)
        assert f"contract: {facts['contract']}" in text
        for option in facts["options"]:
            assert option["name"] in text
            assert option["doc"] or name.startswith("test-"), f"{name}{{{option['name']}}} has no words"
    for name in listed["aliases"]:
        assert "passes, in order" in graphopt("explain", name)


def test_explain_an_operator(graphopt):
    text = graphopt("explain", "Conv")
    assert "channel relation" in text
    assert "default 'NOTSET'" in text


def test_verify(graphopt):
    assert graphopt("verify", "model.onnx") == "model.onnx: well formed, 6 nodes\n"


def test_diff(graphopt):
    assert "structure: equal" in graphopt("diff", "model.onnx", "model.onnx")
    graphopt("optimize", "model.onnx", "-p", "prune-channels", "-o", "pruned.onnx", "-q")
    text = graphopt("diff", "model.onnx", "pruned.onnx", status=1)
    assert "different on the same random inputs" in text
    assert "292" in text
    graphopt("diff", "model.onnx", "pruned.onnx", "--tolerance", "1e9")
    other = graphopt("diff", "model.onnx", "tests.cli.models:single_argument", status=1)
    assert "the inputs differ" in other
    assert "float32[2, 3]" in other


def test_help_is_short_and_complete(graphopt):
    text = graphopt("--help")
    for command in ("optimize", "inspect", "passes", "explain", "verify", "diff"):
        assert command in text
        assert "MODEL" in graphopt(command, "--help") or command in ("passes", "explain")


def test_standard_input_and_output(folder):
    command = ("-m", "graphopt", "optimize", "-", "-p", "fuse", "-o", "-")
    done = run_python(*command, cwd=folder, stdin=Path("model.onnx").read_bytes())
    assert done.returncode == 0
    assert b"fuse-conv-bn" in done.stderr
    model = onnx.ModelProto.FromString(done.stdout)
    onnx.checker.check_model(model, full_check=True)
    check(model)
    done = run_python("-m", "graphopt", "inspect", "-", cwd=folder)
    assert done.returncode == 2
    assert b"is empty" in done.stderr


def test_a_terminal_is_no_model(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(SystemExit):
        main(["inspect", "-"])
    assert "standard input is a terminal" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Terminal())
        with pytest.raises(SystemExit):
            main(["optimize", SMALL, "-p", "fuse", "-o", "-"])
    assert "standard output is a terminal" in capsys.readouterr().err


def test_sparse_weights_in_fewer_bytes(graphopt, folder):
    for name, more in (("dense.onnx", []), ("sparse.onnx", ["--sparse"])):
        graphopt("optimize", "graphopt.models.digits:digits", "-p", "sparsify{ratio=0.9}", "-o", name, "-q", *more)
    onnx.checker.check_model("sparse.onnx", full_check=True)
    assert (folder / "sparse.onnx").stat().st_size < 0.4 * (folder / "dense.onnx").stat().st_size
    assert "equal on the same random inputs" in graphopt("diff", "dense.onnx", "sparse.onnx")


def test_version(graphopt):
    assert graphopt("--version") == f"graphopt {go.__version__}\n"


def test_sizes_that_are_not_known_are_said_to_be(graphopt, folder):
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[n] x, float[4, 1, 8] w) => (float y) '
    text += "{ one = Constant<value = int64[2] {1, 1}>() shape = Shape(x) s = Concat<axis = 0>(one, shape) "
    text += "i = Reshape(x, s) y = Conv(i, w) }"
    onnx.save(onnx.parser.parse_model(text), "short.onnx")
    assert "0 and those of 1 node whose operator or sizes are not known" in graphopt("inspect", "short.onnx")
    facts = json.loads(graphopt("inspect", "short.onnx", "--json"))
    assert (facts["macs"], facts["macs_unknown"]) == (0, 1)


def test_json_of_a_perfect_match_is_json(graphopt):
    def refuse(word):
        raise AssertionError(word)

    figures = json.loads(graphopt("bench", SMALL, "--runs", "1", "--json"), parse_constant=refuse)
    assert figures[SMALL]["sqnr_db"] == "inf"


def test_names_with_brackets_are_shown_as_they_are(graphopt, folder):
    graph = go.load("model.onnx")
    graph.inputs[0].name = "[bold]in[/bold]"
    graph.output_names[:] = ["[/red]out"]
    next(iter(graph)).name = "[red]first"
    next(iter(graph)).origin = next(iter(graph)).origin.__class__()
    graph.name = "[i]"
    go.save(graph, "a [x].onnx")
    text = graphopt("inspect", "a [x].onnx")
    for word in ("[bold]in[/bold]: float32", "[/red]out: float32", "[red]first", "graph '[i]'"):
        assert word in text
    assert "wrote b [y].onnx" in graphopt("optimize", "a [x].onnx", "-p", "fuse", "-o", "b [y].onnx")
    assert "a [x].onnx: well formed" in graphopt("verify", "a [x].onnx")
    assert "a [x].onnx" in graphopt("diff", "a [x].onnx", "b [y].onnx")


def test_help_has_a_short_form(graphopt):
    assert "optimize" in graphopt("-h")
    assert "--runs" in graphopt("bench", "-h")


def test_untrained_models_are_the_same_in_every_command(graphopt):
    graphopt("optimize", "graphopt.models.lenet:lenet", "-p", "eliminate-dead", "-o", "lenet.onnx")
    assert "equal on the same random inputs" in graphopt("diff", "graphopt.models.lenet:lenet", "lenet.onnx")


def test_bench_counts_what_a_file_does_not_tell(graphopt, folder):
    model = onnx.load("model.onnx")
    del model.graph.value_info[:]
    onnx.save(model, "bare.onnx")
    found = json.loads(graphopt("bench", "bare.onnx", "model.onnx", "--runs", "1", "--json"))
    assert found["bare.onnx"]["macs"] == found["model.onnx"]["macs"] > 0


def test_a_model_that_needs_a_long_signal(graphopt, folder):
    body = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 1, t] x, float[1, 1, 40] w) => (float y) '
    body += "{ i = Identity(x) y = Conv(i, w) }"
    model = onnx.parser.parse_model(body)
    model.graph.input.pop()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 1, 40), np.float32), "w"))
    onnx.save(model, "long.onnx")
    assert "exact to 0.0e+00 on x [2, 1, 128]" in " ".join(
        graphopt("optimize", "long.onnx", "-p", "simplify", "-o", "l.onnx").split()
    )
    assert "equal on the same random inputs (x [2, 1, 128])" in graphopt("diff", "long.onnx", "l.onnx")
    assert "on x [1, 1, 128]" in graphopt("bench", "long.onnx", "--runs", "1")
    graphopt("optimize", "long.onnx", "-p", "simplify", "-o", "l.pt2")
