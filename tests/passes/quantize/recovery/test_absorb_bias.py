"""High-bias absorption: closed forms in torch, what it wins at one scale per tensor, what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError
from graphopt.runtime import run
from graphopt.runtime.compare import compare

# Pairs on inputs only: a quantized output would hold the large biases with the pass and without.
INT8 = "insert-qdq{target=generic,everything=true},calibrate{target=generic}"
HIGH = 200.0


def images(count, first=0):
    generator = torch.Generator().manual_seed(first)
    return [(torch.randn(8, 3, 9, 9, generator=generator),) for _ in range(count)]


def network(padding=0, norm=True):
    """Two layers around a ReLU; four of the channels between them are far above zero."""
    torch.manual_seed(0)
    middle = nn.BatchNorm2d(16) if norm else nn.Identity()
    module = nn.Sequential(nn.Conv2d(3, 16, 1), middle, nn.ReLU(), nn.Conv2d(16, 8, 3, padding=padding))
    with torch.no_grad():
        if norm:
            middle.momentum = None
            module.train()(torch.cat([x for (x,) in images(8)]))
            middle.bias[:4] = HIGH
        else:
            module[0].bias[:4] = HIGH
    return module.eval()


def absorbed(module, data, through_onnx=False):
    graph = go.capture(module, images(1)[0])
    if through_onnx:
        graph = go.load(go.to_onnx(graph))
    plain = graph.clone()
    return graph, plain, go.optimize(graph, "absorb-bias", data).passes[-1]


def sqnr(graph, plain):
    inputs = images(1, 99)[0]
    return compare(run(graph, inputs), run(plain, inputs)).sqnr


@pytest.mark.parametrize("through_onnx", [False, True])
@pytest.mark.parametrize("norm", [True, False])
def test_what_channels_exceed_moves_into_the_next_biases(norm, through_onnx):
    module, data = network(norm=norm), images(4)
    graph, plain, report = absorbed(module, data, through_onnx)
    if norm:
        shift = (module[1].bias - 3 * module[1].weight.abs()).clamp(min=0)
    else:
        made = module[0](torch.cat([x for (x,) in data])).transpose(0, 1).flatten(1)
        shift = (made.mean(1) - 3 * made.std(1, correction=0)).clamp(min=0)
    assert report.counts == {"tensors": 1}
    with torch.no_grad():
        module[1 if norm else 0].bias -= shift
        module[3].bias += torch.einsum("oihw,i->o", module[3].weight, shift)
        inputs = images(1, 99)[0]
        torch.testing.assert_close(run(graph, inputs)[0], module(*inputs), rtol=1e-4, atol=1e-4)
    assert sqnr(graph, plain) > 35  # close, not the same
    assert {value.name for value in graph.constants} == {value.name for value in plain.constants}


@pytest.mark.parametrize("norm", [True, False])
def test_int8_is_better_with_it(norm):
    data = images(8)
    results = []
    for step in ("", "absorb-bias,"):
        graph = go.capture(network(norm=norm), data[0])
        plain = graph.clone()
        go.optimize(graph, f"{step}simplify,fuse,{INT8}", data)
        results.append(sqnr(graph, plain))
    assert results[1] > results[0] + 6


def test_products_absorb_too():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).eval()
    with torch.no_grad():
        module[0].bias[2] = HIGH
    data = [(torch.randn(64, 6),) for _ in range(4)]
    graph = go.capture(module, data[0])
    plain = graph.clone()
    report = go.optimize(graph, "absorb-bias", data).passes[-1]
    assert report.counts == {"tensors": 1}
    assert compare(run(graph, data[0]), run(plain, data[0])).sqnr > 35


def test_readers_that_pad_are_left_alone():
    graph, plain, report = absorbed(network(padding=1), images(1))
    assert not report.modified
    assert str(graph) == str(plain)


def test_low_biases_are_left_alone():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    assert not absorbed(module, images(2))[2].modified


def test_other_uses_and_outputs_are_left_alone():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = torch.relu(self.first(x) + HIGH)
            return self.last(y) + y

    assert not absorbed(Skip().eval(), images(2))[2].modified


def test_data_is_asked_for_where_no_statistics_are():
    graph = go.capture(network(norm=False), images(1)[0])
    with pytest.raises(DataError):
        go.optimize(graph, "absorb-bias")
    graph = go.capture(network(), images(1)[0])
    assert go.optimize(graph, "absorb-bias").passes[-1].modified


@pytest.mark.parametrize("text", ["absorb-bias{deviations=-1}", "absorb-bias{batches=-1}"])
def test_options_are_checked(text):
    with pytest.raises(OptionError, match="absorb-bias"):
        go.optimize(go.capture(network(), images(1)[0]), text, images(1))


def test_half_precision_stays_half_precision():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).eval().half()
    with torch.no_grad():
        module[0].bias[2] = HIGH
    data = [(torch.randn(64, 6).half(),) for _ in range(4)]
    graph = go.capture(module, data[0])
    want = run(graph, data[0])
    assert go.optimize(graph, "absorb-bias", data).modified
    assert {value.dtype for value in graph.constants} == {go.ir.DType.FLOAT16}
    assert compare(run(graph, data[0]), want).sqnr > 30
