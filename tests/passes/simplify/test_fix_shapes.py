"""Binding open dimensions, and what folds after it; the levels of `simplify`."""

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.analysis import propagate
from graphopt.cli import main
from graphopt.pipeline import run_pipeline
from graphopt.pipeline.context import Context
from graphopt.runtime.ort import OrtSession

TEXT = """<ir_version: 8, opset_import: ["" : 18]>
m (float[batch, C, 4] x, float[batch, 4] y) => (float[A, B] z)
<int64[1] first = {0}, int64[1] rest = {-1}>
{ s = Shape(x) b = Gather(s, first) t = Concat<axis = 0>(b, rest) h = Reshape(x, t) z = Concat<axis = 1>(h, y) }"""


@pytest.fixture
def model():
    made = onnx.parser.parse_model(TEXT)
    onnx.checker.check_model(made, full_check=True)
    return made


def shapes(graph):
    return [list(value.shape) for value in [*graph.inputs, *graph.outputs]]


def fixed(model, pipeline, **options):
    graph = go.load(model)
    return graph, go.optimize(graph, pipeline, **options)


def test_a_shape_binds_the_names_in_it_everywhere(model):
    graph, report = fixed(model, "fix-shapes{shapes={x:2x3x4}},simplify")
    assert shapes(graph) == [[2, 3, 4], [2, 4], [2, 16]]
    assert [node.op for node in graph] == ["Reshape", "Concat"]
    assert "batch is 2" in report.passes[0].notes
    assert "unchecked" in report.passes[0].checks["equivalence"]["summary"]
    assert any("exact to" in entry.checks["equivalence"]["summary"] for entry in report.passes[1:] if entry.checks)
    feeds = {"x": np.random.rand(2, 3, 4).astype(np.float32), "y": np.random.rand(2, 4).astype(np.float32)}
    want, got = (OrtSession(each, optimize=False).run(feeds)[0] for each in (model, go.to_onnx(graph)))
    np.testing.assert_array_equal(got, want)


def test_a_dimension_by_its_name_and_one_that_stays_open(model):
    graph, _ = fixed(model, "fix-shapes{shapes={batch:5}}")
    assert [str(dim) for dim in graph.inputs[0].shape] == ["5", "C", "4"]
    graph, _ = fixed(model, "fix-shapes{shapes={x:?x3x4}}")
    assert [str(dim) for dim in graph.inputs[0].shape] == ["batch", "3", "4"]


def test_unknown_dimensions_and_expressions():
    x, n = go.load(onnx.parser.parse_model(TEXT)), "fix-shapes{shapes={x:6x1x4}}"
    x.inputs[0].type = x.inputs[0].type.with_shape([go.ir.dims.parse_dim("2*n"), None, 4])
    x.inputs[1].type = x.inputs[1].type.with_shape([go.ir.dims.parse_dim("2*n"), 4])
    run_pipeline(x, n, Context(x))
    assert shapes(x)[:2] == [[6, 1, 4], [6, 4]]


def test_nothing_to_fix_changes_nothing(model):
    _, report = fixed(model, "fix-shapes{shapes={x:?x?x4}}")
    assert not report.passes[0].modified


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("z:4", "no input and no open dimension is called 'z'"),
        ("batch:2x3", "called 'batch'"),
        ("x:2x3", "has 3 dimensions, 2 are given"),
        ("x:2x3x5", "dimension 2 of input 'x' is 4, and cannot be 5"),
        ("x:2x3x4,y:1x4", "is 2, for dimension 0 of input 'x', and cannot be 1"),
        ("batch:2,y:1x4", "cannot be 1"),
        ("x:2x-3x4", "no shape"),
        ("x:axbxc", "no shape"),
    ],
)
def test_mistakes(model, given, words):
    graph = go.load(model)
    propagate(graph)
    before = str(graph)
    with pytest.raises(go.GraphoptError, match=words):
        go.optimize(graph, f"fix-shapes{{shapes={{{given}}}}}")
    assert str(graph) == before


def test_a_dimension_that_the_size_does_not_reach():
    graph = go.load(onnx.parser.parse_model(TEXT))
    graph.inputs[0].type = graph.inputs[0].type.with_shape([go.ir.dims.parse_dim("2*n"), 3, 4])
    with pytest.raises(go.GraphoptError, match="never 3"):
        go.optimize(graph, "fix-shapes{shapes={x:3x3x4}}")
    graph.inputs[0].type = graph.inputs[0].type.with_shape([go.ir.dims.parse_dim("m+n"), 3, 4])
    with pytest.raises(go.GraphoptError, match="does not settle"):
        go.optimize(graph, "fix-shapes{shapes={x:3x3x4}}")


def test_a_captured_module_is_emitted_for_its_shape():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.randn(2, 3, 5, 5)
    module(x)
    graph = go.capture(module, (x,), dynamic={"input": {0: "batch"}})
    go.optimize(graph, "fix-shapes{shapes={batch:1}},simplify")
    torch.testing.assert_close(go.to_torch(graph)(x[:1]), module(x[:1]))


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(each) for each in arguments])
    captured = capsys.readouterr()
    return caught.value.code, captured.out + captured.err


def test_the_command_line(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(model, "m.onnx")
    start = ["optimize", "m.onnx", "-p", "fuse", "-o", "o.onnx"]
    code, text = command(capsys, *start, "--fix-shapes", "x=2x3x4", "--fix-shapes", "y=2x4")
    assert code == 0, text
    made = onnx.load("o.onnx")
    assert [node.op_type for node in made.graph.node] == ["Reshape", "Concat"]
    assert [d.dim_value for d in made.graph.output[0].type.tensor_type.shape.dim] == [2, 16]
    for wrong, words in (("x", "is no shape"), ("x=a", "is no shape"), ("w=3", "is called 'w'")):
        code, text = command(capsys, *start, "--fix-shapes", wrong)
        assert code != 0
        assert words in text
    code, text = command(capsys, *start, "--fix-shapes", "x=2x3x4", "--fix-shapes", "x=2x3x4")
    assert "given twice" in text


def test_levels_of_simplify():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU()).eval()
    left = {}
    for level in ("simplify", "fuse", "max"):
        graph = go.capture(module, (torch.randn(1, 3, 5, 5),))
        go.optimize(graph, f"simplify{{level={level}}}")
        left[level] = [node.op for node in graph]
    assert left["simplify"] == ["Conv", "BatchNormalization", "Dropout", "Relu"]
    assert left["fuse"] == ["Conv", "Dropout", "Relu"]
    assert left["max"] == ["Conv", "Relu"]
    with pytest.raises(go.GraphoptError, match=r"'maximum' is no level of 'simplify'.*max"):
        go.optimize(graph, "simplify{level=maximum}")
    with pytest.raises(go.GraphoptError, match="has no option 'level'"):
        go.optimize(graph, "fuse{level=max}")
