"""A pass in somebody else's package: installed, found by its entry point, run on a torch and an ONNX model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import graphopt as go
from tests.processes import run_python

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "tests" / "plugin"
MODEL = "tests.test_plugin:model"


def model():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Linear(8, 2)]
    return nn.Sequential(*layers).eval(), (torch.randn(3, 4),)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which pip has installed the plug-in."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source")  # building leaves files beside the source
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *offline,
        "--target",
        str(folder / "site"),
        str(folder / "source"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "site"


def graphopt(*arguments, site=None, cwd=ROOT):
    path = os.pathsep.join(str(each) for each in (site, ROOT) if each is not None)
    done = run_python("-m", "graphopt", *arguments, cwd=cwd, env={"PYTHONPATH": path, "COLUMNS": "120"})
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_plugin_is_ten_lines():
    lines = (PLUGIN / "src" / "relu_once.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.startswith(("import", "from")) and '"""' not in line]
    assert len(code) <= 10


def test_plugin_is_listed_like_a_built_in_pass(site):
    listed = json.loads(graphopt("passes", "--json", site=site).stdout)["passes"]
    assert listed["relu-once"]["doc"] == "Drop a Relu that follows a Relu."
    assert listed["relu-once"]["contract"] == listed["fuse-conv-bn"]["contract"] == "exact"


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_plugin_runs(kind, site, tmp_path):
    module, args = model()
    spec = MODEL
    if kind == "onnx":
        spec = str(tmp_path / "model.onnx")
        torch.onnx.export(module, args, spec, dynamo=False)
    out = str(tmp_path / "out.onnx")
    done = graphopt("optimize", spec, "-p", "relu-once", "-o", out, site=site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "relu-once" in done.stdout
    graph = go.load(out)
    assert [node.op for node in graph.walk()].count("Relu") == 1
    torch.testing.assert_close(go.to_torch(graph)(*args), module(*args))


def test_without_the_package_the_pass_is_unknown(tmp_path):
    done = graphopt("optimize", MODEL, "-p", "relu-once", "-o", str(tmp_path / "out.onnx"))
    assert done.returncode == 2
    assert "there is no pass 'relu-once'" in done.stderr


def test_broken_package_is_named(site, tmp_path):
    broken = tmp_path / "site"
    shutil.copytree(site, broken)
    (broken / "relu_once.py").write_text("import nothing_of_that_name\n")
    done = graphopt("passes", site=broken)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the pass package 'relu-once' (relu_once) failed to import: ModuleNotFoundError" in done.stderr
    assert "repair or uninstall it" in done.stderr
