"""bench, new-pass and reduce."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import graphopt as go
from graphopt.cli import main
from tests.cli.models import small
from tests.pipeline.failing import network
from tests.processes import run_python

ROOT = Path(__file__).parents[2]


@pytest.fixture
def graphopt(tmp_path, capsys, monkeypatch):
    """Runs a command in an empty folder and returns what it printed on standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("COLUMNS", "140")

    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as caught:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        assert caught.value.code == status, captured
        return captured.out if status == 0 else captured.err

    return run


@pytest.fixture
def model(tmp_path):
    module, args = small()
    go.save(go.capture(module, args), tmp_path / "model.onnx")
    return module, args


# -- bench


@pytest.mark.parametrize("runtime", ["ort", "torch"])
def test_bench_beside_the_baseline(graphopt, model, runtime):
    graphopt("optimize", "model.onnx", "-p", "simplify,fuse", "-o", "fast.onnx", "-q")
    found = json.loads(graphopt("bench", "model.onnx", "fast.onnx", "--runtime", runtime, "--runs", 3, "--json"))
    assert list(found) == ["model.onnx", "fast.onnx"]
    assert all(each["seconds"] > 0 and each["macs"] > 0 and each["millijoules"] > 0 for each in found.values())
    assert found["fast.onnx"]["sqnr_db"] > 80
    text = graphopt("bench", "model.onnx", "fast.onnx", "--runs", 2, "--runtime", runtime)
    assert f"{runtime}, 1 thread, median of 2" in text
    assert "1.00" in text


def test_bench_measures_accuracy_where_there_are_labels(graphopt, model):
    module, (x,) = model
    labels = module(x).argmax(1).numpy()
    labels[0] += 1
    np.savez("data.npz", **{go.load("model.onnx").inputs[0].name: x.numpy(), "labels": labels})
    found = json.loads(graphopt("bench", "model.onnx", "--data", "data.npz", "--runs", 1, "--json"))
    assert found["model.onnx"]["accuracy"] == pytest.approx(1 - 1 / len(labels))
    assert "accuracy" in graphopt("bench", "model.onnx", "--data", "data.npz", "--runs", 1)


def test_bench_counts_fewer_bytes_as_cheaper(graphopt, model):
    graphopt("optimize", "model.onnx", "-p", "simplify,fuse,quantize-weights", "-o", "small.onnx", "-q")
    found = json.loads(graphopt("bench", "model.onnx", "small.onnx", "--runs", 1, "--json"))
    assert found["small.onnx"]["millijoules"] < 0.7 * found["model.onnx"]["millijoules"]
    assert found["small.onnx"]["weight_bytes"] < found["model.onnx"]["weight_bytes"]


def test_bench_refuses(graphopt, model):
    assert "no such file" in graphopt("bench", "nothing.onnx", status=2)
    assert "no such file" in graphopt("bench", "model.onnx", "--data", "nothing.npz", status=2)
    go.save(network(), "other.onnx")
    assert graphopt("bench", "model.onnx", "--runs", 0, status=2).startswith("error: ")


# -- new-pass


def test_new_pass_makes_a_package_whose_tests_pass(graphopt, tmp_path):
    text = graphopt("new-pass", "merge-relus")
    assert "pip install -e merge-relus" in text
    folder = tmp_path / "merge-relus"
    environment = {"PYTHONPATH": os.pathsep.join([str(folder / "src"), str(ROOT)])}
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", folder, cwd=folder, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert b"3 passed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Merge"], "no name for a pass"),
        (["simplify"], "there is a pass 'simplify' already"),
        (["fuse-conv-bn"], "already"),
        (["mine", "-o", "."], "exists already"),
        (["mine", "-o", "nowhere/mine"], "there is no folder"),
    ],
)
def test_new_pass_refuses(graphopt, tmp_path, arguments, message):
    assert message in graphopt("new-pass", *arguments, status=2)
    assert list(tmp_path.iterdir()) == []


# -- reduce


def test_reduce(graphopt):
    go.save(network(), "model.onnx")
    text = graphopt("reduce", "model.onnx", "-p", "test-crash-behind-gemm", "-o", "least.onnx")
    assert "-> 2 nodes" in text
    assert "IndexError" in text
    assert [node.op for node in go.load("least.onnx")] == ["Gemm", "Tanh"]


def test_reduce_refuses(graphopt, tmp_path):
    go.save(network(), "model.onnx")
    assert "does not fail" in graphopt("reduce", "model.onnx", "-p", "simplify", "-o", "least.onnx", status=2)
    assert "no kind of file" in graphopt("reduce", "model.onnx", "-p", "simplify", "-o", "least.tar", status=2)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
