"""Bias correction without data: expectations against closed forms and sampling, notes that outlive folding, limits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError, PassError
from graphopt.passes.quantize.calibration import run_float
from graphopt.passes.quantize.recovery.expectation import expectations, mean_error
from graphopt.passes.quantize.recovery.layers import quantized_layers
from graphopt.passes.quantize.recovery.statistics import KEY, statistics_of
from graphopt.runtime import run
from graphopt.runtime.executor import values_of

C = 6
LOW_BITS = (
    'extends = "generic"\nname = "low"\ndoc = "Few bits."\n[weight]\nbits = {bits}\nper_channel = {per_channel}\n'
)


def normalization(channels=C, seed=0, shift=1.0):
    """A batch normalization that makes of standard normal numbers those of its shift and scale, exactly."""
    generator = torch.Generator().manual_seed(seed)
    bn = nn.BatchNorm2d(channels, eps=1e-5)
    with torch.no_grad():
        bn.weight.copy_(torch.rand(channels, generator=generator) * 2 - 0.5)
        bn.bias.copy_(torch.randn(channels, generator=generator) * shift)
        bn.running_var -= bn.eps
    return bn


def pixels(count, channels=C, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, channels, size, size, generator=generator),) for _ in range(count)]


class Two(nn.Module):
    """What two normalizations make of two inputs, put together."""

    def __init__(self, together):
        super().__init__()
        self.first, self.second, self.together = normalization(seed=1), normalization(seed=2), together

    def forward(self, x, y):
        return self.together(self.first(x), self.second(y))


@pytest.fixture
def target(tmp_path: Path):
    def make(bits=4, per_channel=False):
        path = tmp_path / f"low{bits}{per_channel}.toml"
        path.write_text(LOW_BITS.format(bits=bits, per_channel=str(per_channel).lower()))
        return path

    return make


def insert(target, more=""):
    return f'insert-qdq{{target="{target}",everything=true}},calibrate{{target="{target}",method=minmax}}{more}'


# -- expectations


@pytest.mark.parametrize("limits", [(0.0, None), (0.0, 6.0), (-1.0, 1.0)], ids=str)
def test_clipped_normal_numbers_have_the_moments_of_the_paper(limits):
    """Nagel et al. 2019, appendix C: mean of a normal number clipped to [a, b], and with a = 0 section 4.2.1."""
    low, high = limits
    bn = normalization()
    activation = nn.ReLU() if high is None else nn.Hardtanh(low, high)
    graph = go.capture(nn.Sequential(bn, activation).eval(), pixels(1)[0])
    found = expectations(graph)[graph.outputs[0]]
    mean, dev = (each.detach().double().numpy() for each in (bn.bias, bn.weight.abs()))
    a = (low - mean) / dev
    b = (high - mean) / dev if high is not None else a * 0 + 40
    top = 0 if high is None else high * norm.sf(b)
    wanted = dev * (norm.pdf(a) - norm.pdf(b)) + mean * (norm.cdf(b) - norm.cdf(a)) + low * norm.cdf(a) + top
    assert found.mean.numpy() == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.LeakyReLU(0.2), nn.Sigmoid(), nn.Identity()],
    ids=str,
)
def test_moments_are_those_of_sampled_numbers(activation):
    bn = normalization()
    graph = go.capture(nn.Sequential(bn, activation).eval(), pixels(1)[0])
    go.optimize(graph, "fuse")
    found = expectations(graph)[graph.outputs[0]]
    z = torch.randn(400_000, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampled = activation(z * bn.weight.detach() + bn.bias.detach())
    torch.testing.assert_close(found.mean, sampled.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(found.variance, sampled.var(0), atol=0.02, rtol=0.01)


@pytest.mark.parametrize(
    "together",
    [
        torch.add,
        torch.sub,
        lambda a, b: torch.relu(a + b),
        lambda a, b: torch.cat([a, torch.relu(b)], 1),
        lambda a, b: nn.functional.adaptive_avg_pool2d(torch.relu(a) + b, 1).flatten(1),
        lambda a, b: torch.relu(a).flatten(1) - b.flatten(1),
        lambda a, b: nn.functional.avg_pool2d(torch.relu(a), 2) + nn.functional.avg_pool2d(b, 2),
        lambda a, b: torch.relu(a).mean((2, 3)) + b.mean((2, 3)),
        lambda a, b: torch.relu(a + a) - torch.tensor(2.0) * b,
    ],
    ids=["add", "sub", "relu of sum", "concat", "pool", "flatten", "average", "mean", "with constants"],
)  # fmt: skip
def test_what_two_normalizations_make_together(together):
    module = Two(together).eval()
    data = [(a, b) for (a,), (b,) in zip(pixels(60, size=6), pixels(60, size=6, seed=1), strict=True)]
    graph = go.capture(module, data[0])
    found = expectations(graph)[graph.outputs[0]]
    with torch.no_grad():
        sampled = sum(module(*batch).double().transpose(0, 1).flatten(1).mean(1) for batch in data) / len(data)
    # As flat rows have fewer samples of each: 960.
    torch.testing.assert_close(found.mean, sampled, atol=0.02 if len(sampled) < 100 else 0.2, rtol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a * b,
        lambda a, b: nn.functional.max_pool2d(a, 2),
        lambda a, b: a.transpose(1, 2),
        lambda a, b: a.mean(1),
        lambda a, b: torch.relu(nn.functional.avg_pool2d(a, 2)),
        lambda a, b: nn.functional.avg_pool2d(a, 3, padding=1),
        lambda a, b: a * torch.arange(12.0),
        lambda a, b: torch.softmax(a, 1),
    ],
    ids=["product", "max", "transposed", "over channels", "behind an average", "padded", "positions", "softmax"],
)
def test_what_channels_do_not_tell_is_not_known(function):
    graph = go.capture(Two(function).eval(), (*pixels(1)[0], *pixels(1)[0]))
    assert graph.outputs[0] not in expectations(graph)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(C, 8, 3, padding=1),
        nn.Conv2d(C, C, 5, padding=2, groups=C, bias=False),
        nn.Conv2d(C, 4, 3, stride=2, dilation=2, padding=1),
        nn.ConvTranspose2d(C, 4, 3, stride=2),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, 5)),
        nn.Sequential(nn.Flatten(), nn.Linear(C * 36, 5)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_error_of_a_layer_is_what_sampling_finds(layer, target):
    torch.manual_seed(0)
    for part in (part for part in layer.modules() if hasattr(part, "reset_parameters")):
        part.reset_parameters()
    module = nn.Sequential(normalization(), nn.ReLU(), layer).eval()
    data = pixels(40, size=6)
    graph = go.capture(module, data[0])
    go.optimize(graph, f'insert-qdq{{target="{target(3)}",everything=true}}', data[:1], check=False)
    (found,) = quantized_layers(graph)
    got = mean_error(found, expectations(graph))
    twin = graph.clone()
    (mine,) = quantized_layers(twin)
    # The rounded weights by hand: one scale for the tensor, symmetric, 3 bits.
    scale = found.weight.data.abs().max() / 3
    mine.weight.data = (found.weight.data / scale).round().clamp(-3, 3) * scale
    total = 0
    for batch in data:
        difference = run_float(twin, batch)[0].double() - run_float(graph, batch)[0].double()
        total = total + difference.transpose(0, 1).flatten(1).mean(1) / len(data)
    assert float(total.abs().max()) > 0.01
    torch.testing.assert_close(got, total, atol=0.02 * float(total.abs().max()) + 0.001, rtol=0)


# -- correct-bias{method=analytic}


def deep(normal=True):
    """Numbers that really are normal go into the first layer; convolution, normalization and ReLU follow."""
    torch.manual_seed(0)
    first = normalization() if normal else nn.Identity()
    middle = nn.BatchNorm2d(16)
    module = nn.Sequential(
        first, nn.ReLU(), nn.Conv2d(C, 16, 3, padding=1, bias=False), middle, nn.ReLU6(), nn.Conv2d(16, 8, 1)
    )
    middle.momentum = None
    with torch.no_grad():
        module.train()(torch.cat([x for (x,) in pixels(8)]))
        first_state = normalization()
        if normal:
            module[0].load_state_dict(first_state.state_dict())
        middle.weight.copy_(torch.rand(16) + 0.5)
        middle.bias.copy_(torch.randn(16) * 0.5)
    return module.eval()


def biases(graph):
    return [node.input(2).data.double() for node in graph if node.op == "Conv"]


@pytest.mark.parametrize(("per_channel", "through_onnx"), [(False, False), (True, True)])
def test_on_normal_numbers_it_does_what_the_empirical_correction_does(per_channel, through_onnx, target):
    data = pixels(8)
    found = {}
    for method in ("none", "analytic", "empirical"):
        graph = go.capture(deep(), data[0])
        go.optimize(graph, "keep-statistics,fuse")
        if through_onnx:
            graph = go.load(go.to_onnx(graph))
        plain = graph.clone()
        path = target(4, per_channel)
        more = "" if method == "none" else f",correct-bias{{method={method},batches=0}}"
        report = go.optimize(graph, insert(path, more), data, check=False)
        error = sum((run(graph, x)[0].double() - run(plain, x)[0].double()).mean((0, 2, 3)) for x in pixels(3, seed=9))
        found[method] = biases(graph), float(error.norm())
        if method == "analytic":
            assert report.passes[-1].counts == {"biases": 2}
            assert len(report.passes[-1].notes) == 1
    corrections = zip(*(found[method][0] for method in ("none", "analytic", "empirical")), strict=True)
    # The second layer reads sums of 54 numbers, which are nearly normal.
    for within, (none, analytic, empirical) in zip((0.1, 0.5), corrections, strict=True):
        assert float((analytic - empirical).norm()) < within * float((empirical - none).norm())
    assert found["analytic"][1] < 0.3 * found["none"][1]


def test_it_needs_no_data_and_takes_the_notes_out(target):
    graph = go.capture(deep(), pixels(1)[0])
    go.optimize(graph, "keep-statistics,fuse")
    assert any(KEY in node.metadata for node in graph)
    pipeline = f'insert-qdq{{target="{target()}",everything=true}},correct-bias{{method=analytic}}'
    report = go.optimize(graph, pipeline, check=False)
    assert report.passes[-1].modified
    assert not any(KEY in node.metadata for node in graph)
    with pytest.raises(DataError, match="needs data"):
        go.optimize(graph, "correct-bias")


def test_what_nothing_is_known_of_is_left_alone_and_counted(target):
    data = pixels(1)
    graph = go.capture(deep(normal=False), data[0])
    go.optimize(graph, "fuse", data)
    before = biases(graph)
    report = go.optimize(graph, insert(target(), ",correct-bias{method=analytic}"), data, check=False).passes[-1]
    assert not report.modified
    assert report.notes[1] == "2 layers were left alone: nothing is known of what they read"
    assert all(torch.equal(a, b) for a, b in zip(before, biases(graph), strict=True))
    graph = go.capture(deep(normal=False), data[0])
    go.optimize(graph, "keep-statistics,fuse", data)
    report = go.optimize(graph, insert(target(), ",correct-bias{method=analytic}"), data, check=False).passes[-1]
    assert report.counts == {"biases": 1}
    assert report.notes[1] == "1 layers were left alone: nothing is known of what they read"


# -- notes


def noted(graph):
    return [found for node in graph for value in node.outputs if (found := statistics_of(value)) is not None]


@pytest.mark.parametrize("through_onnx", [False, True])
def test_notes_outlive_folding_and_files(through_onnx):
    module = deep()
    graph = go.capture(module, pixels(1)[0])
    if through_onnx:
        graph = go.load(go.to_onnx(graph))
    report = go.optimize(graph, "keep-statistics,fuse")
    assert report.passes[0].counts == {"normalizations": 2}
    graph = go.load(go.to_onnx(graph))
    conv = next(node for node in graph if node.op == "Conv")
    assert sum(node.op == "BatchNormalization" for node in graph) == 1  # the first has no layer in front
    found = statistics_of(conv.output)
    torch.testing.assert_close(found.mean, module[3].bias.detach().double())
    torch.testing.assert_close(found.deviation, module[3].weight.detach().double().abs())


def test_a_second_run_and_training_normalizations_change_nothing():
    graph = go.capture(deep(), pixels(1)[0])
    assert go.optimize(graph, "keep-statistics").modified
    assert not go.optimize(graph, "keep-statistics").modified
    graph = go.capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), (torch.zeros(1, 3, 4, 4),))
    assert go.optimize(graph, "keep-statistics").passes[0].skipped


def test_equalize_and_absorb_bias_keep_notes_true():
    """What a note says after them is what the tensor's channels have: measured on normal numbers."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(C, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    module[1].momentum = None
    data = pixels(4)
    with torch.no_grad():
        module.train()(torch.cat([x for (x,) in data]))
        module[1].weight.copy_(torch.logspace(-1, 1, 8))
        module[1].bias.copy_(torch.linspace(-1, 90, 8))
    graph = go.capture(module.eval(), data[0])
    go.optimize(graph, "keep-statistics,fuse")
    report = go.optimize(graph, "equalize{by=weights},absorb-bias")
    assert report.passes[0].modified
    assert report.passes[1].modified  # without data
    conv = next(node for node in graph if node.op == "Conv")
    found = statistics_of(conv.output)
    made = torch.cat([values_of(graph, x, [conv.output])[conv.output].double() for x in data])
    rows = made.transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean, rows.mean(1), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(found.deviation, rows.std(1), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("text", ["not base64!", "AAAA", ""])
def test_damaged_notes_are_an_error(text, target):
    graph = go.capture(deep(normal=False), pixels(1)[0])
    go.optimize(graph, "keep-statistics,fuse")
    next(node for node in graph if KEY in node.metadata).metadata[KEY] = text
    steps = f'insert-qdq{{target="{target()}",everything=true}},correct-bias{{method=analytic}}'
    if text == "":  # no channels: says nothing of this tensor
        assert go.optimize(graph, steps, check=False).passes[-1].counts == {"biases": 0}
        return
    with pytest.raises(PassError, match="cannot be read"):
        go.optimize(graph, steps, check=False)


@pytest.mark.parametrize("text", ["correct-bias{method=guess}", "correct-bias{batches=-1}", "equalize{above=0}"])
def test_options_are_checked(text):
    with pytest.raises(OptionError, match=text.split("{")[0]):
        go.optimize(go.capture(deep(), pixels(1)[0]), text)
