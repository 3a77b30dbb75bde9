"""Equalization, bias correction, GPTQ and AdaRound: what each wins back, what it must leave alone, what it refuses."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError, PassError
from graphopt.ir import DType
from graphopt.passes.curvature import inverse_factor
from graphopt.passes.quantize import AdaRound, Gptq
from graphopt.passes.quantize.pairs import activation_pairs
from graphopt.passes.quantize.recovery.descent import descend, row_errors
from graphopt.passes.quantize.recovery.layers import quantized_layers
from graphopt.passes.quantize.recovery.moments import matrix_of, second_moments, weight_of
from graphopt.passes.quantize.recovery.rounding import Grid, output_error
from graphopt.pipeline import Context
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from tests.passes.quantize.recovery.models import graph_of, images, uneven

INT8 = "insert-qdq{everything=true},calibrate"


def noise(graph, plain, seed=99):
    """SQNR on data that no pass has seen, in dB."""
    inputs = images(1, seed)[0]
    return compare(run(graph, inputs), run(plain, inputs)).sqnr


def quantized(pipeline, spread=1.0):
    data = images(8)
    graph = graph_of(uneven(spread), data)
    plain = graph.clone()
    report = go.optimize(graph, pipeline, data)
    return graph, plain, report


# -- equalize


@pytest.mark.parametrize("by", ["activations", "weights"])
def test_equalize_undoes_channels_scaled_apart(by):
    even = noise(*quantized(INT8)[:2])
    apart = noise(*quantized(INT8, 1000.0)[:2])
    graph, plain, report = quantized(f"equalize{{by={by}}},{INT8}", 1000.0)
    assert apart < even - 6
    assert noise(graph, plain) > even - 3
    assert report.of("equalize").modified


def test_equalize_is_exact_and_leaves_even_channels_alone():
    graph, plain, _ = quantized("equalize", 1000.0)
    inputs = images(1, 5)[0]
    assert compare(run(graph, inputs), run(plain, inputs)).max_rel < 1e-5
    report = go.optimize(graph, "equalize{by=weights},equalize{by=weights}")
    assert not report.passes[-1].modified
    assert {v.name for v in graph.parameters} == {v.name for v in plain.parameters}


def test_equalize_without_anything_to_rescale():
    graph = go.capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1)), (torch.randn(1, 3, 4, 4),))
    report = go.optimize(graph, "equalize{by=weights}")
    assert not report.of("equalize").modified
    assert "no channels" in report.of("equalize").notes[0]


def test_equalize_needs_data_for_activations():
    graph = graph_of(uneven(), images(1))
    with pytest.raises(DataError, match="needs data"):
        go.optimize(graph, "equalize")


# -- correct-bias


def test_correct_bias_gives_channels_their_means_back():
    data = images(8)
    graph = graph_of(uneven(), data)
    plain = graph.clone()
    go.optimize(graph, INT8, data)
    clipped = next(pair for pair in activation_pairs(graph) if pair.source.name == "relu_1")
    clipped.scale.data = clipped.scale.data / 3  # the largest values are lost, so that all means are too low
    before = noise(graph, plain)
    report = go.optimize(graph, "correct-bias", data)
    assert noise(graph, plain) > before + 3
    assert report.of("correct-bias").counts == {"biases": 4}
    means = [sum(run(each, batch)[0].double().mean(0) for (batch) in data) / len(data) for each in (graph, plain)]
    torch.testing.assert_close(means[0], means[1], atol=2e-3, rtol=0)


def test_correct_bias_adds_biases_and_finds_those_behind_products():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1, bias=False)
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return self.linear(torch.relu(self.conv(x)).flatten(2).transpose(1, 2))

    torch.manual_seed(0)
    data = images(4)
    graph = go.capture(Net().eval(), data[0])
    report = go.optimize(graph, "insert-qdq{everything=true,ignore=linear.bias},correct-bias", data)
    assert report.of("correct-bias").counts == {"biases": 2}
    conv = next(node for node in graph if node.op == "Conv")
    assert conv.input(2).data.shape == (8,)
    graph.verify()


# -- moments, gptq, adaround


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1, stride=2),
        nn.Conv2d(4, 6, (3, 1), padding=(0, 1), dilation=(2, 1), groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv1d(4, 5, 3, padding=2),
        nn.Linear(12, 7),
    ],
    ids=str,
)
def test_moments_predict_the_error_of_a_layer(layer):
    """``tr(E M E^T)`` is the mean square of what an error E of the weight does to the outputs."""
    torch.manual_seed(0)
    shape = (3, 4, 12) if isinstance(layer, nn.Conv1d) else (3, 4, 9, 12)
    data = [(torch.randn(shape),) for _ in range(3)]
    graph = go.capture(layer.eval(), data[0])
    go.optimize(graph, "insert-qdq{everything=true}", data)
    (found,) = quantized_layers(graph)
    graph_inputs = [tuple(inputs) for inputs in data]
    moments = second_moments(graph, [found], graph_inputs)[found]
    weight = found.weight.data
    error = torch.randn_like(weight) * 0.1
    predicted = output_error(matrix_of(found, error.double()), moments)
    channels = 1 if found.linear.is_convolution else -1
    total = 0.0
    for inputs in graph_inputs:
        results = []
        for numbers in (weight, weight + error):

            def hook(node, got, numbers=numbers, results=results):
                if node is found.node:
                    results.append(got[0].double())
                return (numbers,) if node is found.pair.dequantize else got

            run(graph, inputs, hook=hook)
        total += float((results[1] - results[0]).square().sum() / (results[0].numel() / results[0].shape[channels]))
    assert predicted == pytest.approx(total / len(graph_inputs), rel=1e-3)
    torch.testing.assert_close(weight_of(found, matrix_of(found, weight)), weight)


def test_the_factor_is_that_of_the_inverse():
    x = torch.randn(6, 50, dtype=torch.float64)
    moments = x @ x.T / 50
    factor = inverse_factor(moments, 0.01)
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(damped))
    assert bool((factor.tril(-1) == 0).all())
    assert torch.isfinite(inverse_factor(torch.zeros(3, 3, dtype=torch.float64), 0.01)).all()


def correlated(count, width=16, first=0):
    """Inputs that four numbers each make up, and a little noise."""
    generator = torch.Generator().manual_seed(first)
    mix = torch.randn(4, width, generator=torch.Generator().manual_seed(1))
    made = (torch.randn(32, 4, generator=generator) @ mix for _ in range(count))
    return [(each + 0.1 * torch.randn(32, width, generator=generator),) for each in made]


@pytest.mark.parametrize(("step", "most"), [("gptq", 0.5), ("adaround{steps=300}", 0.3)])
def test_rounding_beats_the_nearest(step, most):
    torch.manual_seed(0)
    data = correlated(8)
    graph = go.capture(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8)), data[0])
    report = go.optimize(graph, f"insert-qdq{{everything=true}},calibrate,{step}", data)
    figures = report.passes[-1]
    assert figures.details["error_ratio"] < most
    assert figures.counts == {"weights": 2}
    for layer in quantized_layers(graph):  # what is stored is on the grid, so that rounding to nearest keeps it
        grid, weight = Grid.of(layer), matrix_of(layer, layer.weight.data.double())
        torch.testing.assert_close(grid.nearest(weight), weight, atol=1e-6, rtol=1e-5)


def test_gptq_agrees_with_trying_everything():
    """On two weights and two codes each, the best of all roundings is known."""
    weight = torch.tensor([[0.44, 0.46]], dtype=torch.float64)
    moments = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    ones = torch.ones(1, 1, 2, dtype=torch.float64)
    grid = Grid(ones, 0 * ones, 0, 1)
    found = Gptq(damp=1e-9)._round(weight[None], grid, moments[None])
    tried = [torch.tensor([[[a, b]]], dtype=torch.float64) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    best = min(tried, key=lambda each: output_error(each - weight, moments[None]))
    assert torch.equal(found, best)
    assert not torch.equal(found, grid.nearest(weight[None]))


@pytest.mark.parametrize(("width", "outputs", "bits"), [(16, 12, 3), (64, 32, 4), (144, 16, 3)])
def test_adaround_is_at_or_below_gptq(width, outputs, bits):
    """On correlated inputs, output by output; the errors here are computed from the inputs, not from their moments."""
    torch.manual_seed(0)
    x = torch.cat([each for (each,) in correlated(20, width)]).double()
    moments, weight = (x.T @ x / len(x))[None], torch.randn(1, outputs, width, dtype=torch.float64)
    top = float((1 << bits - 1) - 1)
    step = (weight.abs().amax(-1, keepdim=True) / top).expand_as(weight).contiguous()
    grid = Grid(step, torch.zeros_like(weight), -top, top)
    learned = AdaRound(steps=100)._round(weight, grid, moments)
    torch.testing.assert_close(grid.nearest(learned), learned)

    def errors(rounded):
        return (x @ (rounded - weight)[0].T).square().mean(0)

    ours, gptq = errors(learned), errors(Gptq()._round(weight, grid, moments))
    assert bool((ours <= gptq * (1 + 1e-9)).all())
    assert ours.sum() < gptq.sum()
    assert ours.sum() < 0.3 * errors(grid.nearest(weight)).sum()


def test_descent_finds_what_no_single_code_improves():
    """Against every code of every weight: none, changed alone, makes the error smaller."""
    torch.manual_seed(0)
    x = torch.cat([each for (each,) in correlated(4, 6)]).double()
    moments, weight = (x.T @ x / len(x))[None], torch.randn(1, 3, 6, dtype=torch.float64)
    grid = Grid(torch.full_like(weight, 0.7), torch.zeros_like(weight), -4, 3)
    found = descend(weight, grid.nearest(weight), grid, moments)
    least = row_errors(found - weight, moments)
    for column in range(6):
        for code in range(-4, 4):
            tried = found.clone()
            tried[..., column] = 0.7 * code
            assert bool((row_errors(tried - weight, moments) >= 0.999 * least).all())


def test_rounded_weights_survive_packing_and_onnx_runtime(tmp_path):
    data = images(4)
    graph = graph_of(uneven(), data)
    plain = graph.clone()
    go.optimize(graph, INT8 + ",gptq,correct-bias,pack-weights", data)
    assert noise(graph, plain) > 25
    path = tmp_path / "model.onnx"
    go.save(graph, path)
    inputs = images(1, 7)[0]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})
    assert compare([torch.from_numpy(each) for each in got], run(graph, inputs)).sqnr > 30
    assert any(v.dtype is DType.INT8 for v in graph.constants)


@pytest.mark.parametrize("step", ["gptq", "adaround"])
def test_rounding_refuses_packed_weights(step):
    data = images(2)
    graph = graph_of(uneven(), data)
    go.optimize(graph, INT8 + ",pack-weights", data)
    with pytest.raises(PassError, match="no layer has a float weight"):
        go.optimize(graph, step, data)


@pytest.mark.parametrize(
    "text",
    [
        "equalize{strength=2}", "equalize{above=0.5}", "equalize{batches=-1}", "correct-bias{batches=-1}",
        "gptq{damp=0}", "gptq{batches=-1}",
        "adaround{steps=0}", "adaround{lr=0}", "adaround{regulariser=0}", "adaround{batches=-1}",
        "limit-drop{max-drop=-1}", "limit-drop{batches=0}",
    ],
)  # fmt: skip
def test_options_are_checked(text):
    with pytest.raises(OptionError, match=text.split("{")[0]):
        go.optimize(graph_of(uneven(), images(1)), text, images(1))


@pytest.mark.parametrize("step", ["correct-bias", "gptq", "adaround", "limit-drop{max-drop=0.1}"])
def test_a_float_graph_is_left_alone(step):
    data = images(1)
    graph = graph_of(uneven(), data)
    before = str(graph)
    assert not go.optimize(graph, step, data).passes[-1].modified
    assert str(graph) == before
    assert Context(graph).has_data is False
