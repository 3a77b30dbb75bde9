"""What users get wrong: one line that names the thing and the mend, exit status 2, nothing written, no traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt as go
from graphopt.cli import main
from graphopt.cli.models import write_report
from graphopt.pipeline import Report
from tests.cli.models import small
from tests.processes import run_python

ROOT = Path(__file__).parents[2]
SMALL = "tests.cli.models:small"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder for one command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    return tmp_path


@pytest.fixture(scope="module")
def good_model():
    module, args = small()
    return go.to_onnx(go.capture(module, args)).SerializeToString()


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def fail(folder, capfd):
    """Runs a command that must fail and returns its one line of complaint."""

    def run(*arguments):
        before = snapshot(folder)
        with pytest.raises(SystemExit) as caught:
            main([str(each) for each in arguments])
        captured = capfd.readouterr()
        assert caught.value.code == 2, captured
        assert captured.out == ""
        lines = captured.err.strip().split("\n")
        assert len(lines) == 1, captured.err
        assert snapshot(folder) == before
        return lines[0].removeprefix("error: ")

    return run


def node_model(nodes, inputs=("x",), outputs=("y",), initializers=()):
    """An ONNX file made by hand, which no checker has seen."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in outputs], initializers,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


N = helper.make_node
CYCLE = node_model(
    [N("Add", ["x", "b"], ["a"], name="first"), N("Neg", ["a"], ["b"], name="second"), N("Neg", ["b"], ["y"])]
)
TWICE = node_model([N("Neg", ["x"], ["y"], name="one"), N("Abs", ["x"], ["y"], name="two")])
UNDEFINED = node_model([N("Add", ["x", "nowhere"], ["y"])])


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "m.onnx is empty; export"), (b"hello, this is text\n", "m.onnx is not an ONNX model; give a file that"),
     (b"PK\x03\x04 a zip", "m.onnx is not an ONNX model"),
     (CYCLE, "cycle.*(first|second).*break the cycle"), (TWICE, "value 'y' is defined twice .*rename one of the two"),
     (UNDEFINED, "'nowhere' is read, but nothing defines it.*add what gives it")],
)  # fmt: skip
@pytest.mark.parametrize("command", ["optimize", "inspect"])
def test_files_that_are_no_models(content, words, command, fail, folder):
    (folder / "m.onnx").write_bytes(content)
    more = ("-p", "fuse", "-o", "out.onnx") if command == "optimize" else ()
    line = fail(command, "m.onnx", *more)
    assert re.search(words, line), line


def test_truncated_files(fail, folder, good_model):
    for part in (0.3, 0.6, 0.95):
        (folder / "m.onnx").write_bytes(good_model[: int(len(good_model) * part)])
        line = fail("optimize", "m.onnx", "-p", "fuse", "-o", "out.onnx")
        assert re.search("truncated|cut off|incomplete|ends", line), line
        assert "m.onnx" in line


def test_no_such_file(fail, folder, good_model):
    (folder / "model.onnx").write_bytes(good_model)
    assert fail("inspect", "modle.onnx") == "no such file: modle.onnx; did you mean 'model.onnx'?"
    assert fail("inspect", "zzz") == "no such file: zzz; give an ONNX file, a .pt2, or package.module:function"
    assert fail("inspect", "no/m.onnx") == "no such file: no/m.onnx; there is no folder 'no' either"
    assert fail("verify", ".") == "'.' is a folder; name a file in it"
    assert "no such file: b.onnx" in fail("diff", "model.onnx", "b.onnx")


@pytest.mark.parametrize(
    ("spec", "words"),
    [("tests.cli.models:smal", "no function 'smal' .*did you mean 'small'"),
     ("tests.cli.models:NOT_CALLABLE", "no function 'NOT_CALLABLE'"),
     ("no_such_module:f", r"module 'no_such_module' cannot be imported .*MODEL is a file, or package\.module:function"),
     ("tests.cli.models:raises", r"raises\(\) raised RuntimeError: the weights are not here"),
     ("tests.cli.models:no_module", r"returned int .*return \(nn\.Module, example args\)"),
     ("tests.cli.models:data_dependent", r"data-dependent control flow.*models\.py:\d+\).*use torch\.where")],
)  # fmt: skip
def test_torch_models(spec, words, fail):
    line = fail("optimize", spec, "-p", "fuse", "-o", "out.onnx")
    assert re.search(words, line), line


def test_operators_that_the_other_side_lacks(fail, folder):
    line = fail("optimize", "tests.cli.models:without_onnx", "-p", "eliminate-dead", "-o", "out.onnx")
    assert re.search(r"ONNX has no operator for aten::special_bessel_j0.*keep the model in torch", line), line
    custom = node_model([N("Secret", ["x"], ["y"], domain="my.domain", name="node7")])
    model = onnx.ModelProto.FromString(custom)
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    line = fail("optimize", "m.onnx", "-p", "eliminate-dead", "-o", "out.pt2")
    assert re.search(r"my\.domain::Secret.*node7", line), line


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [("fuze", "there is no pass 'fuze'; did you mean 'fuse'?"), ("zzzz", "'graphopt passes' lists them"),
     ("prune-channels{ration=0.5}", "has no option 'ration' (at prune-channels); did you mean 'ratio'?"),
     ("prune-channels{ratio=1}", "ratio is 1.0 (at prune-channels{ratio}); give 0 <= ratio < 1"),
     ("prune-channels{ratio=1.5}", "ratio is 1.5"), ("prune-channels{ratio=-0.1}", "ratio is -0.1"),
     ("prune-channels{ratio=half}", "'half' is not a number (at prune-channels{ratio})"),
     ("prune-channels{ratio", "expected '=' at column 21 of the pipeline"),
     ("fuse,", "expected a pass name at column 6"), ("quantize", "needs data and the run was given none"),
     ("finetune", "pass 'finetune' needs data"), ("prune-channels{ignore=[nothing.*]}", "matches no parameter"),
     ("prune-channels{criterion=l3}", "no criterion 'l3'")],
)  # fmt: skip
def test_pipelines(pipeline, words, fail):
    line = fail("optimize", SMALL, "-p", pipeline, "-o", "out.onnx")
    assert words in line, line


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [("image", np.zeros((4, 3, 8, 8), "f4"), "array 'image' names no input of the model.*the inputs are: input"),
     ("inputs", np.zeros((4, 3, 8, 8), "f4"), "array 'inputs' names no input .*did you mean 'input'"),
     ("input", np.zeros((4, 3, 8, 7), "f4"), r"has shape \[2, 3, 8, 7\], the input wants float32\[2, 3, 8, 8\]"),
     ("input", np.zeros((4, 3, 8, 8)), "element type float64, the input wants float32.*convert it"),
     ("input", np.full((4, 3, 8, 8), np.nan, "f4"), "array 'input' holds NaN or infinity.*remove the samples"),
     ("input", np.zeros((0, 3, 8, 8), "f4"), "holds no samples")],
)  # fmt: skip
def test_calibration_arrays(name, array, words, fail, folder):
    np.savez(folder / "d.npz", **{name: array})
    line = fail("optimize", SMALL, "-p", "quantize", "-o", "out.onnx", "--data", "d.npz")
    assert re.search(words, line), line


def test_calibration_files(fail, folder):
    arguments = ("optimize", SMALL, "-p", "quantize", "-o", "o.onnx", "--data", "d.npz")
    assert "no such file: d.npz (at --data); give an .npz file" in fail(*arguments)
    (folder / "d.npz").write_text("hello")
    line = fail(*arguments)
    assert re.search(r"d\.npz cannot be read as numpy arrays.*numpy\.savez", line), line


def test_outputs_that_cannot_be_written(fail, folder, monkeypatch):
    (folder / "file").write_text("")
    (folder / "folder.onnx").mkdir()
    for output, words in (
        ("out.xyz", "end it in .onnx, .pt2, .txt"),
        ("no/o.onnx", "there is no folder 'no' (at no/o.onnx); make it first"),
        ("file/out.onnx", "'file' is a file, not a folder"), ("folder.onnx", "'folder.onnx' is a folder"),
    ):  # fmt: skip
        line = fail("optimize", SMALL, "-p", "fuse", "-o", output)
        assert words in line, line
    for report, words in (("r.pdf", "end it in .html or .json"), ("no/r.html", "there is no folder 'no'")):
        line = fail("optimize", SMALL, "-p", "fuse", "-o", "out.onnx", "--report", report)
        assert words in line, line
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may write anywhere
    line = fail("optimize", SMALL, "-p", "fuse", "-o", "out.onnx")
    assert line == "folder '.' is not writable (at out.onnx); choose another, or change its mode"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_output_where_nobody_can_write(fail):
    assert re.search("cannot|not writable", fail("optimize", SMALL, "-p", "fuse", "-o", "/proc/self/out.onnx"))


def test_opset_that_cannot_be(fail):
    assert re.search(r"opset 5.*13", fail("optimize", SMALL, "-p", "fuse", "-o", "out.onnx", "--opset", "5"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("optimise",), "No such command 'optimise'. Did you mean 'optimize'"),
     (("optimize", "m.onnx"), "Missing option '-p' / '--pipeline'; see 'graphopt optimize --help'"),
     (("inspect",), "MODEL"), (("inspect", "m.onnx", "--jsn"), "--jsn"),
     (("optimize", "m", "-p", "fuse", "-o", "o.onnx", "--check", "x"), "'x' is not one of 'strict', 'report', 'off'"),
     (("explain", "prune-chanels"), "no pass, alias or operator 'prune-chanels'; did you mean 'prune-channels'"),
     (("explain", "conv"), "did you mean 'Conv'"), (("explain", "zzzzzz"), "'graphopt passes' lists them")],
)  # fmt: skip
def test_commands(arguments, words, fail):
    line = fail(*arguments)
    assert words in line, line


def test_broken_contract_is_refused_and_nothing_written(fail, folder):
    import tests.pipeline.passes  # noqa: F401  # registers test-scale

    with pytest.raises(AssertionError, match="graphopt-crash"):  # but for the reproducer
        fail("optimize", SMALL, "-p", "test-scale{factor=2}", "-o", "out.onnx")
    assert not (folder / "out.onnx").exists()
    with pytest.raises(SystemExit) as caught:
        main(["optimize", SMALL, "-p", "test-scale{factor=2}", "-o", "out.onnx", "--check", "report"])
    assert caught.value.code == 0


def test_no_command_shows_the_help(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert "optimize" in captured.out + captured.err
    assert "error" not in captured.err


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (BrokenPipeError, 1)])
def test_interruptions(error, status, folder, monkeypatch, capsys):
    def read(spec, weights):
        raise error

    monkeypatch.setattr("graphopt.cli.models.read", read)
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))  # noqa: SIM115  # main closes it
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "m.onnx"])
    sys.stderr.close()
    assert caught.value.code == status


def test_module_that_torch_cannot_export(fail, monkeypatch):
    def refuse(*arguments, **keywords):
        raise RuntimeError("cannot trace this")

    graph = go.capture(*small())
    monkeypatch.setattr("graphopt.cli.models.read", lambda spec: graph)
    monkeypatch.setattr("torch.export.export", refuse)
    line = fail("optimize", SMALL, "-p", "fuse", "-o", "out.pt2")
    assert "cannot be exported by torch (RuntimeError: cannot trace this) (at out.pt2); write .onnx instead" in line


def test_report_on_a_full_disk(folder, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(go.GraphoptError, match=r"report cannot be written: No space left on device \(at r\.html\)"):
        write_report(Report("fuse"), Path("r.html"))


def test_foreign_errors_keep_their_traceback(folder, monkeypatch):
    monkeypatch.setattr("graphopt.cli.models.read", lambda spec, weights: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "m.onnx"])


# -- the real command, in a process of its own

ENVIRONMENT = {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}


def command(*arguments, cwd):
    return run_python("-m", "graphopt", *arguments, cwd=cwd, env=ENVIRONMENT)


def started(*arguments, cwd):
    """The same, with all that Python does at its start and its end."""
    return subprocess.run([sys.executable, "-m", "graphopt", *arguments], cwd=cwd, env={**os.environ, **ENVIRONMENT},
                          capture_output=True, check=False)  # fmt: skip


@pytest.mark.parametrize("case", ["no file", "truncated", "data-dependent", "ratio"])
def test_in_a_process(case, folder, good_model):
    (folder / "cut.onnx").write_bytes(good_model[:700])
    model = {"no file": "no.onnx", "truncated": "cut.onnx", "data-dependent": "tests.cli.models:data_dependent"}
    pipeline = "prune-channels{ratio=1}" if case == "ratio" else "fuse"
    before = snapshot(folder)
    run = started if case == "no file" else command
    done = run("optimize", model.get(case, SMALL), "-p", pipeline, "-o", "out.onnx", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1, done.stderr
    assert b"Traceback" not in done.stderr
    assert snapshot(folder) == before


def test_reader_that_goes_away(folder, good_model):
    (folder / "m.onnx").write_bytes(good_model)
    code = f"{sys.executable} -m graphopt inspect m.onnx --text | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(["bash", "-c", code], cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode in (0, 1)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("option", [("--opset", "18"), ("--sparse",)])
def test_options_of_onnx_files_for_other_files(fail, option):
    complaint = fail("optimize", SMALL, "-p", "fuse", "-o", "out.txt", *option)
    assert complaint == f"{option[0]} is for ONNX files, and 'out.txt' is none (at {option[0]}); end it in .onnx"


def test_an_opset_that_does_not_exist_is_refused_before_the_model_is_read(fail):
    assert "opset 99 cannot be written" in fail(
        "optimize", "nothing.onnx", "-p", "fuse", "-o", "o.onnx", "--opset", "99"
    )
    assert "opset is 99" in fail("optimize", "nothing.onnx", "-p", "fuse{opset=99}", "-o", "o.onnx")


def test_two_forms_at_once(fail):
    assert "--text and --json exclude one another" in fail("inspect", SMALL, "--text", "--json")


def test_a_wrong_shape_is_no_crash(fail):  # so it leaves no reproducer
    assert fail("optimize", SMALL, "-p", "fix-shapes{shapes={nope:1}}", "-o", "out.onnx").startswith("no input")


def test_a_pass_cannot_be_called_like_a_word_of_python(fail):
    assert "'class' is a word of Python" in fail("new-pass", "class")


@pytest.mark.parametrize("tolerance", ["-1", "nan"])
def test_tolerances_that_nothing_meets(fail, tolerance):
    assert "tolerance" in fail("optimize", SMALL, "-p", "fuse", "-o", "out.onnx", "--tolerance", tolerance)


def test_bench_of_models_for_different_inputs(fail):
    complaint = fail("bench", SMALL, "graphopt.models.lenet:lenet")
    assert "input 'x' of 'graphopt.models.lenet:lenet' is float32[2, 1, 28, 28], and that of 'tests" in complaint


def test_a_label_that_is_no_class(fail, folder):
    np.savez(folder / "data.npz", input=np.zeros((4, 3, 8, 8), np.float32), labels=np.array([0, 1, 99, 2]))
    complaint = fail("optimize", SMALL, "-p", "finetune{epochs=1}", "-o", "out.onnx", "--data", "data.npz")
    assert (
        complaint
        == "label 99 is no class: the output has 4 (at labels); give labels from 0 to 3, or choose another output"
    )


def test_curves_into_a_folder_that_is_not_there(fail):
    assert "there is no folder 'nowhere'" in fail(
        "optimize", SMALL, "-p", "sensitivity{file=nowhere/curves.html}", "-o", "out.onnx"
    )


# -- what newcomers try


@pytest.mark.parametrize(
    ("name", "words"),
    [("w.pt", "'w.pt' holds what torch.save wrote.*no graph; write a function that returns"),
     ("w.pth", "holds what torch.save wrote"), ("w.safetensors", "holds weights, and no graph"),
     ("model.py", "is Python code, of which a function is needed")],
)  # fmt: skip
def test_files_of_other_kinds(name, words, fail, folder):
    (folder / name).write_bytes(b"x")
    assert re.search(words, fail("inspect", name))


def test_functions_written_otherwise(fail, folder):
    assert "for a function write graphopt.models.lenet:lenet" in fail("inspect", "graphopt.models.lenet.lenet")
    (folder / "mine.py").write_text("")
    assert fail("inspect", "mine.py:net").endswith("write mine:net")


def test_standard_input_holds_one_model(fail):
    for command in ("diff", "bench"):
        assert fail(command, "-", "-") == "standard input holds one model (at -); give files for the others"


def test_text_without_its_weights(fail, folder, capfd):
    text = go.capture(*small())
    (folder / "m.txt").write_text(str(text))
    for command in (
        ("diff", "m.txt", "m.txt"),
        ("bench", "m.txt"),
        ("optimize", "m.txt", "-p", "fuse", "-o", "o.onnx"),
    ):
        words = "the weights are missing: there is no file 'm.txt.safetensors' (at m.txt); put it beside the text"
        assert fail(*command) == words
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "m.txt"])
    assert caught.value.code == 0


BRANCHES = """<ir_version: 8, opset_import: ["": 17]> g (bool c, float[2, 4] x) => (float[2, 4] y) {
    y = If (c) <then_branch = t () => (float[2,4] p) { p = Relu (x) },
                else_branch = e () => (float[2,4] q) { q = Neg (x) }> }"""


def test_what_torch_cannot_export_is_one_line(folder):
    onnx.save(onnx.parser.parse_model(BRANCHES), folder / "if.onnx")
    done = command("optimize", "if.onnx", "-p", "eliminate-dead", "-o", "if.pt2", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1, done.stderr
    assert done.stdout == b""
    assert re.search(rb"cannot be exported by torch \(\w+: .*data-dependent.*\).*write \.onnx instead", done.stderr)


def test_made_up_inputs_that_do_not_fit(fail, folder):
    body = '<ir_version: 8, opset_import: ["": 17]> g (float[1, n] x, float[5, 2] w) => (float[1, 2] y) '
    body += "{ y = MatMul(x, w) }"
    onnx.save(onnx.parser.parse_model(body), folder / "m.onnx")
    line = fail("bench", "m.onnx")
    assert re.search(r"the inputs were made up \(x \[1, 2\], w \[5, 2\]\): give data", line), line


def test_names_that_are_no_text(folder, good_model):
    name = os.fsdecode(b"\xff.onnx")
    (folder / name).write_bytes(good_model)
    done = command("verify", name, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\udcff.onnx: well formed" in done.stdout
    done = command("inspect", os.fsdecode(b"\xfe.onnx"), cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: no such file: \\udcfe.onnx")
