"""What pruning leaves is saved and loaded without the class that it came from."""

import pytest
import torch

import graphopt as go
from graphopt.cli import models
from graphopt.runtime import run
from graphopt.runtime.samples import example_inputs
from tests.zoo import captured


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".txt"])
def test_saved_and_loaded(name, ending, tmp_path):
    graph = captured(name)
    go.optimize(graph, "prune-depth{blocks=1},prune-channels{ratio=0.5},sparsify{ratio=0.8}", check=False)
    path = tmp_path / f"model{ending}"
    models.write(graph, str(path), None, sparse=True)
    loaded = go.load(path) if ending == ".onnx" else models.read(str(path))
    inputs = example_inputs(graph)
    want = run(graph, inputs)[0]
    torch.testing.assert_close(run(loaded, inputs)[0], want, rtol=1e-4, atol=1e-5)
    if ending == ".pt2":
        with torch.no_grad():
            torch.testing.assert_close(torch.export.load(path).module()(*inputs), want, rtol=1e-4, atol=1e-5)
    again = go.optimize(loaded, "prune-channels{ratio=0.25}", check=False)  # and is pruned further
    assert again.modified
