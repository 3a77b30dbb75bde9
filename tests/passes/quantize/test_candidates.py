"""calibrate{method=best}: the choice against trying every combination by hand in torch, its memory, its report."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.ir import DType, Origin
from graphopt.passes.quantize.candidates import Candidates, Trial
from graphopt.passes.quantize.divergence import Entropy
from graphopt.passes.quantize.observers import MeanSquareError, MinMax, Percentile
from graphopt.passes.quantize.pairs import activation_pairs, add_parameters, insert_pair
from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.targets import Scheme
from tests.onnx_models import info, model, node, tensor

U8 = Scheme(DType.UINT8)
METHODS = ("mse", "entropy", "percentile", "minmax")
GENERIC = "insert-qdq{target=generic,everything=true},calibrate{target=generic,method=%s}"


def heavy_tailed(shape, generator, power=3):
    return torch.randn(shape, generator=generator).pow(power)


class Branches(nn.Module):
    """A tensor whose outliers one reader needs and the other multiplies with nothing."""

    def __init__(self, outliers_matter: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8, bias=False)
        with torch.no_grad():
            self.layer.weight[:, 0] = 3.0 if outliers_matter else 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def outliers(count, outlier=60.0):
    """Channel 0 holds rare large numbers; it decides minmax, and nothing else does."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(count):
        x = torch.randn(64, 16, generator=generator)
        x[:, 0] = torch.where(torch.rand(64, generator=generator) < 0.02, outlier, 0.0)
        batches.append((x,))
    return batches


def calibrated(module, data, method):
    graph = go.capture(module.eval(), data[0])
    report = go.optimize(graph, GENERIC % method, data, check=False)
    return graph, report.of("calibrate")


def error(module, graph, data):
    """Of a module that is one function of its input: what rounding the input by the graph's scale costs, by hand."""
    (pair,) = activation_pairs(graph)
    scale = float(pair.scale.data)
    got = want = 0.0
    with torch.no_grad():
        for (x,) in data:
            exact = module(x)
            got += float((module((x / scale).round().clamp(-127, 127) * scale) - exact).square().sum())
            want += float(exact.square().sum())
    return got / want


def test_one_histogram_gives_every_method_its_range():
    data = heavy_tailed((20_000,), torch.Generator().manual_seed(1)).chunk(4)
    together = Candidates(99.9)
    apart = {"mse": MeanSquareError(), "entropy": Entropy(), "percentile": Percentile(99.9), "minmax": MinMax()}
    for part in data:
        for observer in (together, *apart.values()):
            observer.see(part)
    for scheme in (U8, Scheme(DType.INT8, symmetric=True)):
        assert together.ranges(scheme) == {name: each.range(scheme) for name, each in apart.items()}
    assert len({float(high) for _, high in together.ranges(U8).values()}) == 4


def test_methods_that_agree_are_one_candidate():
    observer = Candidates(100.0)
    observer.see(torch.tensor([0.0, 1.0]))
    assert "minmax" not in observer.parameters(U8)
    assert next(iter(observer.parameters(U8))) == "mse"
    assert list(Candidates(99.0).parameters(U8)) == ["mse"]  # nothing seen


@pytest.mark.parametrize("outliers_matter", [True, False])
def test_the_reader_decides_not_the_tensor(outliers_matter):
    """The same numbers, so the same candidates: where the outliers reach the output they stay, else they go."""
    torch.manual_seed(0)
    module, data = Branches(outliers_matter), outliers(4)
    errors = {method: error(module, calibrated(module, data, method)[0], data[:1]) for method in METHODS}
    graph, report = calibrated(module, data, "best")
    assert error(module, graph, data[:1]) == pytest.approx(min(errors.values()), rel=1e-6)
    assert max(errors.values()) > 4 * min(errors.values())
    winner = min(METHODS, key=errors.__getitem__)
    assert report.notes[1] == f"least error at the readers on 64 samples: {winner} 1"
    assert (winner == "mse") is outliers_matter, errors


def test_shared_scales_are_tried_together_and_readers_weigh_alike():
    """Two tensors of one scale, a reader of both (y), and one whose results are a thousand times larger (z)."""
    nodes = [node("Relu", "x", "a"), node("Neg", "x", "b"), node("Mul", "a b", "y"), node("Conv", "a v", "z")]
    generator = torch.Generator().manual_seed(2)
    v = torch.randn(4, 4, 1, 1, generator=generator) * 1000
    proto = model(nodes, [info("x", (2, 4, 6, 6))], ["y", "z"], [tensor("v", v.numpy())])
    graph = go.load(proto)
    data = [(heavy_tailed((2, 4, 6, 6), generator),) for _ in range(2)]
    one = torch.tensor(1.0)
    shared, zero = add_parameters(graph, "shared", one, torch.tensor(0, dtype=torch.uint8), U8)
    by_name = {value.name: value for each in graph for value in each.outputs}
    pairs = []
    for name in ("a", "b"):
        uses = list(by_name[name].uses)
        pairs.append(insert_pair(graph, by_name[name], shared, zero, None, None, Origin()))
        for use in uses:
            use.user.set_input(use.index, pairs[-1].dequantize.output)
    highs = (0.5, 4.0, 30.0)
    tried = {shared: {str(high): parameters_of_range(-one * high, one * high, U8) for high in highs}}
    groups = {shared: pairs}
    trial = Trial(graph, groups, tried)
    for batch in data:
        trial.see(batch)
    errors = {}
    for name, (step, zero) in tried[shared].items():
        want = {"y": [0.0, 0.0], "z": [0.0, 0.0]}
        for (x,) in data:
            a, b = x.relu(), -x
            new_a, new_b = (
                ((each / step).round() + float(zero)).clamp(0, 255).sub(float(zero)) * step for each in (a, b)
            )
            for key, got, exact in (("y", new_a * new_b, a * b), ("z", F.conv2d(new_a, v), F.conv2d(a, v))):
                want[key][0] += float((got - exact).square().sum())
                want[key][1] += float(exact.square().sum())
        wanted = want["y"][0] / want["y"][1] + want["z"][0] / want["z"][1]
        errors[name] = wanted
        assert trial.errors(shared)[name] == pytest.approx(wanted, rel=1e-4)
    assert trial.best(shared) == min(errors, key=errors.__getitem__)
    tried[shared] = dict(reversed(tried[shared].items()))  # whatever comes first
    assert trial.best(shared) == min(errors, key=errors.__getitem__)


def test_an_output_and_a_loop_body_are_compared_themselves():
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    torch.manual_seed(0)
    data = [(heavy_tailed((32, 8), torch.Generator().manual_seed(3)),)]
    graph = go.capture(module.eval(), data[0])
    report = go.optimize(graph, "insert-qdq{target=qnn,everything=true},calibrate{target=qnn,method=best}", data)
    assert "least error at the readers" in report.of("calibrate").notes[1]
    last = graph.outputs[0].producer
    assert last.op == "DequantizeLinear"


@pytest.mark.parametrize("through_onnx", [False, True])
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_networks_calibrate_the_same_from_anywhere(runtime, through_onnx):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    )
    data = [(heavy_tailed((2, 3, 10, 10), torch.Generator().manual_seed(seed)),) for seed in range(6)]
    graph = go.capture(module.eval(), data[0])
    graph = go.load(go.to_onnx(graph)) if through_onnx else graph
    step = f"insert-qdq{{everything=true}},calibrate{{method=best,runtime={runtime}}}"
    report = go.optimize(graph, step, data).of("calibrate")
    assert report.modified
    assert report.notes[0].endswith("scales from 12 samples")
    assert "on 4 samples" in report.notes[1]  # batches 0 and 4
    assert not go.optimize(graph, f"calibrate{{method=best,runtime={runtime}}}", data).of("calibrate").modified


def test_a_generator_is_read_once_and_kept():
    module, data = Branches(True), outliers(4)
    graph = go.capture(module.eval(), data[0])
    report = go.optimize(graph, GENERIC % "best", iter(data), check=False)
    assert "on 64 samples" in report.of("calibrate").notes[1]


def test_memory_does_not_grow_with_samples():
    module, data = Branches(True), outliers(2)
    graph, _ = calibrated(module, data, "best")
    groups = {pair.scale: [pair] for pair in activation_pairs(graph)}
    tried = {scale: {"now": (scale.data, groups[scale][0].zero_point.data)} for scale in groups}
    trial = Trial(graph, groups, tried)

    def held():
        return sum(len(each.noise) for losses in trial.losses.values() for each in losses.values())

    trial.see(data[0])
    before = held()
    for batch in outliers(20):
        trial.see(batch)
    assert held() == before == 1


@pytest.mark.parametrize(("other", "winner"), [(0.9, "minmax"), (0.96, "mse"), (1.1, "mse"), (math.inf, "mse")])
def test_another_method_must_be_clearly_better(other, winner):
    """Errors put in by hand; they are infinite where results are."""
    graph, _ = calibrated(Branches(True), outliers(1), "mse")
    (pair,) = activation_pairs(graph)
    now = (pair.scale.data, pair.zero_point.data)
    trial = Trial(graph, {pair.scale: [pair]}, {pair.scale: {"mse": now, "minmax": now}})
    losses = trial.losses[pair.scale]["a reader"]
    losses.signal = 10.0
    losses.noise.update(mse=1.0, minmax=other)
    assert trial.best(pair.scale) == winner
