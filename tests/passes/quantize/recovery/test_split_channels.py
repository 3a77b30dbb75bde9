"""Outlier channel splitting: the paper's identity in numpy, where copies are made, what is left alone, what it wins."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import OptionError
from graphopt.passes.quantize.recovery.split_channels import divided, share_out
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from tests.onnx_models import info, model, node, tensor

TENSOR = "insert-weight-qdq{bits=6,granularity=tensor}"
SPLIT = "split-channels{ratio=0.07,bits=6}"


class Net(nn.Module):
    """Layers whose input channels come from a depthwise layer, a sum, a pooling and a token mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 24, 1)
        self.residual = nn.Conv2d(24, 24, 3, padding=1)
        self.hidden = nn.Linear(24, 20)
        self.head = nn.Linear(20, 5)
        with torch.no_grad():
            self.expand.weight.copy_(self.expand.weight.sign() / 2)  # nothing to win, and its input is the graph's
            self.project.weight[3, 5] = 2.0
            self.residual.weight[1, 2, 1, 1] = 1.5
            self.hidden.weight[4, 7] = 2.5
            self.head.weight[2, 9] = 3.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(torch.relu(self.depthwise(nn.functional.hardtanh(self.expand(x), 0.0, 6.0))))
        y = y + torch.sigmoid(self.residual(y))
        return self.head(torch.tanh(self.hidden(y.flatten(2).transpose(1, 2)))).mean(1)


def image(seed=1):
    return (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)),)


def network(through_onnx=False):
    torch.manual_seed(0)
    graph = go.capture(Net().eval(), image())
    if through_onnx:
        graph = go.load(go.to_onnx(graph))
    go.optimize(graph, "simplify,fuse")
    return graph


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_parts_round_to_what_the_whole_rounds_to(count):
    """Equation 6 of the paper for any number of parts: halves are (w - 0.5) / 2 and (w + 0.5) / 2, in steps."""
    step = 0.25
    whole = torch.randn(6, 1, 5, dtype=torch.float64) * 4
    parts = divided(whole, 1, torch.tensor([count]), lambda _: torch.tensor(step, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(parts.sum(1), whole[:, 0], atol=1e-12)
    codes = np.floor(parts / step + 0.5).sum(1)
    np.testing.assert_array_equal(codes, np.floor(whole[:, 0].numpy() / step + 0.5))
    if count == 2:
        np.testing.assert_allclose(parts[:, 0], (whole[:, 0] - 0.5 * step) / 2)


def test_copies_go_to_what_sets_the_range():
    assert share_out(torch.tensor([[1.0, 9.0, 2.0, 4.0]]), 3).tolist() == [1, 3, 1, 2]
    assert share_out(torch.tensor([[1.0, 3.0], [3.0, 1.0], [0.1, 0.2]]), 1).tolist() == [1, 2]  # two scales want them


@pytest.mark.parametrize("through_onnx", [False, True])
def test_function_stays_and_weights_round_better(through_onnx):
    graph = network(through_onnx)
    plain = graph.clone()
    report = go.optimize(graph, SPLIT).passes[-1]
    assert report.modified
    assert report.counts == {"layers": 4, "channels": 8}
    inputs = image(5)
    assert compare(run(graph, inputs), run(plain, inputs)).max_rel < 1e-5
    graph.verify()
    assert {v.name for v in plain.constants} <= {v.name for v in graph.constants}
    session = onnxruntime.InferenceSession(go.to_onnx(graph).SerializeToString())
    got = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), run(plain, inputs)[0], rtol=1e-3, atol=1e-4)
    before = plain.clone()
    go.optimize(before, TENSOR)
    go.optimize(graph, TENSOR)
    found = [compare(run(each, inputs), run(plain, inputs)).sqnr for each in (before, graph)]
    assert found[1] > found[0] + 3


def test_copies_are_made_where_channels_are():
    graph = network()
    go.optimize(graph, SPLIT)
    shapes = {v.name: tuple(v.shape) for v in graph.constants if v.name.endswith("weight")}
    assert shapes["expand.weight"] == (18, 3, 1, 1)
    assert shapes["depthwise.weight"] == (18, 1, 3, 3)
    assert shapes["project.weight"] == (24, 18, 1, 1)
    assert shapes["head.weight"] == (5, 22)
    assert shapes["hidden.weight"] == (22, 26)
    convolutions = [each for each in graph if each.op == "Conv"]
    assert convolutions[1].attributes["group"] == 18
    # What a sum is made of is also read by the sum, and what is flattened has two layers in front of it.
    assert sum(each.op == "Gather" for each in graph) == 2
    trained = go.to_torch(graph)
    assert set(trained.state_dict()) >= {f"{layer}.weight" for layer in ("expand", "depthwise", "project", "head")}
    torch.testing.assert_close(trained(*image(3)), run(graph, image(3))[0], rtol=1e-4, atol=1e-5)


def test_even_weights_and_grouped_layers_are_left_alone():
    module = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU()).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.where(module[0].weight > 0, 0.5, -0.5))
        module[2].weight[0, 0] = 7
    graph = go.capture(module, (torch.randn(1, 4, 6, 6),))
    before = str(graph)
    report = go.optimize(graph, "split-channels{ratio=0.2}").passes[-1]
    assert not report.modified
    assert "no copies" in report.notes[0]
    assert str(graph) == before


def outlying(rows, columns):
    weight = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    weight[1, 2] = 40
    return weight


@pytest.mark.parametrize("size", [2, 6])
def test_a_shape_that_counts_channels_is_not_mistaken_for_numbers_of_channels(size):
    """Reshape, and integers of as many elements as there are channels, end in a Gather."""
    first, second = outlying(6, size) if size > 2 else np.ones((6, 2), np.float32), outlying(size, 5).copy()
    if size == 2:
        second = np.array([[40, 1, -1, 0.3, 2], [1, 2, -0.7, 1.1, -1]], np.float32)
    weights = [tensor("v", first), tensor("shape", np.array([4, size] if size == 2 else [-1, size], np.int64))]
    nodes = [node("MatMul", "x v", "a"), node("Reshape", "a shape", "b"), node("MatMul", "b w", "y")]
    graph = go.load(model(nodes, [info("x", (4, 6))], ["y"], [*weights, tensor("w", second)]))
    plain = graph.clone()
    report = go.optimize(graph, "split-channels{ratio=0.1,bits=4}")
    assert report.modified
    assert "Gather" in [each.op for each in graph]
    x = (torch.randn(4, 6),)
    torch.testing.assert_close(run(graph, x)[0], run(plain, x)[0], rtol=1e-4, atol=1e-4)


def test_vectors_on_the_way_are_repeated_and_shared_ones_block():
    nodes = [
        node("MatMul", "x v", "a"), node("Add", "a bias", "b"), node("PRelu", "b slope", "c"),
        node("MatMul", "c w", "d"), node("Add", "d bias", "y"),
    ]  # fmt: skip
    rng = np.random.default_rng(1)
    vectors = [tensor(name, rng.normal(size=6).astype(np.float32)) for name in ("bias", "slope", "bias2")]
    weights = [tensor("v", rng.normal(size=(4, 6)).astype(np.float32)), tensor("w", outlying(6, 6)), *vectors]
    for last, gathers in (("d bias2", 0), ("d bias", 1)):
        nodes[-1] = node("Add", last, "y")
        graph = go.load(model(nodes, [info("x", (3, 4))], ["y"], weights))
        plain = graph.clone()
        assert go.optimize(graph, "split-channels").modified
        assert [each.op for each in graph].count("Gather") == gathers
        x = (torch.randn(3, 4),)
        torch.testing.assert_close(run(graph, x)[0], run(plain, x)[0], rtol=1e-4, atol=1e-4)


def test_transposed_convolutions_and_dynamic_batches():
    torch.manual_seed(0)
    module = nn.Sequential(nn.ConvTranspose2d(3, 10, 2), nn.ReLU(), nn.ConvTranspose2d(10, 4, 2)).eval()
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight.sign() / 2)
        module[2].weight[6, 1, 0, 0] = 9
    graph = go.capture(module, (torch.randn(2, 3, 4, 4),), dynamic=[{0: "batch"}])
    assert go.optimize(graph, "split-channels").passes[-1].counts == {"layers": 1, "channels": 1}
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(go.to_torch(graph)(x), module(x), rtol=1e-4, atol=1e-5)


def test_a_scale_per_channel():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16)).eval()
    with torch.no_grad():
        module[2].weight[:, 4] *= 20  # the same input channel sets the range of every output
    graph = go.capture(module, (torch.randn(8, 32),))
    plain, x = graph.clone(), (torch.randn(64, 32),)
    go.optimize(graph, "split-channels{granularity=channel,bits=4}")
    found = []
    for each in (plain.clone(), graph):
        go.optimize(each, "insert-weight-qdq{bits=4}")
        found.append(compare(run(each, x), run(plain, x)).sqnr)
    assert found[1] > found[0] + 2


@pytest.mark.parametrize("options", ["ratio=0", "ratio=2", "bits=1", "granularity=block", "target=nothing"])
def test_options_are_checked(options):
    with pytest.raises(OptionError):
        go.optimize(network(), f"split-channels{{{options}}}")
