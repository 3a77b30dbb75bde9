"""AWQ and mixed widths: what they promise, on torch and ONNX models, and what they refuse."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError, PassError
from graphopt.passes.quantize.pairs import pairs
from graphopt.runtime import run
from graphopt.runtime.compare import compare

STRONG = 30.0


def inputs_of(count, first=0):
    """Rows in which two of the sixteen features are strong."""
    generator = torch.Generator().manual_seed(first)
    factors = torch.ones(16)
    factors[[3, 11]] = STRONG
    return [(torch.randn(32, 16, generator=generator) * factors,) for _ in range(count)]


def network(scale: bool) -> go.Graph:
    """Two layers behind what can take factors in (a scale), or with nothing there that can."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(16)
            self.first, self.second = nn.Linear(16, 24), nn.Linear(16, 8)

        def forward(self, x):
            y = self.norm(x) if scale else torch.sigmoid(x)
            return self.first(y), self.second(y)

    torch.manual_seed(0)
    module = Scaled().eval()
    with torch.no_grad():
        module.norm.weight[[3, 11]] = STRONG
    return go.capture(module, inputs_of(1)[0])


def error(graph, plain):
    inputs = inputs_of(1, 77)[0]
    return compare(run(graph, inputs), run(plain, inputs)).sqnr


def test_awq_spares_what_is_strong():
    data, plain = inputs_of(4), network(True)
    results = {}
    for steps in ("", "awq{bits=3},"):
        graph = plain.clone()
        report = go.optimize(graph, f"{steps}insert-weight-qdq{{bits=3}},pack-weights", data)
        results[steps] = error(graph, plain)
    assert results["awq{bits=3},"] > results[""] + 2
    assert report.of("awq").counts == {"tensors": 1}
    assert report.of("awq").details["error_ratio"] < 0.5


def test_awq_is_exact():
    data, plain = inputs_of(4), network(True)
    graph = plain.clone()
    report = go.optimize(graph, "awq{bits=3,block=8}", data)
    assert report.of("awq").modified
    inputs = inputs_of(1, 5)[0]
    assert compare(run(graph, inputs), run(plain, inputs)).max_rel < 1e-5


def test_awq_leaves_alone_what_nothing_takes_in():
    graph = network(False)
    report = go.optimize(graph, "awq{bits=3}", inputs_of(2))
    assert not report.of("awq").modified
    assert "no rescaling" in report.of("awq").notes[0]
    with pytest.raises(DataError, match="needs data"):
        go.optimize(graph, "awq")


def mixed(text, graph=None, data=None):
    graph = network(True) if graph is None else graph
    plain = graph.clone()
    report = go.optimize(graph, f"insert-mixed-qdq{{{text}}}", inputs_of(2) if data is None else data)
    return graph, plain, report.passes[-1]


@pytest.mark.parametrize("size", [0.2, 0.3, 0.6])
def test_mixed_stays_within_the_size(size):
    graph, plain, report = mixed(f"size={size}")
    assert report.details["bytes"] <= size * report.details["float_bytes"]
    assert set(report.details["bits"].values()) <= {4, 8, 16, 32}
    assert sum(1 for _ in pairs(graph)) == sum(bits != 32 for bits in report.details["bits"].values())
    graph.verify()
    go.optimize(graph, "pack-weights")
    assert error(graph, plain) > 15


def test_mixed_finds_the_best_of_all_choices():
    """Against every assignment of widths, weighed by the noise that they make together."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    data = inputs_of(2)
    plain = go.capture(module, data[0])
    graph, _, report = mixed("size=0.28,choices=[4,8]", plain.clone(), data)
    noise, widths = {}, (4, 8)
    names = list(report.details["bits"])
    for bits in itertools.product(widths, repeat=3):
        twin = plain.clone()
        for width in set(bits):
            others = ",".join(name for name, each in zip(names, bits, strict=True) if each != width)
            ignore = f",ignore=[{others}]" if others else ""
            go.optimize(twin, f"insert-weight-qdq{{bits={width},search=mse{ignore}}}")
        got, want = run(twin, data[0])[0], run(plain, data[0])[0]
        size = sum(b * n.data.numel() + 32 * n.data.shape[0] for b, n in zip(bits, _weights(plain, names), strict=True))
        if size <= 0.28 * 32 * sum(each.data.numel() for each in _weights(plain, names)):
            noise[bits] = float((got - want).square().sum() / want.square().sum())
    chosen = tuple(report.details["bits"].values())
    assert len(noise) >= 4
    assert noise[chosen] <= 1.2 * min(noise.values())  # noises add up but for what they share
    assert graph.version > 0


def _weights(graph, names):
    return [next(value for value in graph.constants if value.name == name) for name in names]


def test_mixed_leaves_float_what_there_is_room_for():
    graph, _, report = mixed("size=1")
    assert not report.modified
    assert not any(True for _ in pairs(graph))


def test_mixed_says_what_is_out_of_reach():
    with pytest.raises(PassError, match=r"cannot be smaller than 0\.1\d\d of their float size.*size=0\.1"):
        mixed("size=0.05")
    with pytest.raises(PassError, match="no float32 weight"):
        mixed("size=0.5,ignore=*")


@pytest.mark.parametrize(
    "text",
    [
        "awq{bits=1}", "awq{steps=0}", "awq{block=-1}", "awq{batches=-1}", "insert-mixed-qdq{size=0}",
        "insert-mixed-qdq{size=2}", "insert-mixed-qdq{choices=[1]}", "insert-mixed-qdq{block=-1}",
        "insert-mixed-qdq{batches=0}", "insert-mixed-qdq{granularity=global}",
    ],
)  # fmt: skip
def test_options_are_checked(text):
    with pytest.raises(OptionError, match=text.split("{")[0]):
        go.optimize(network(True), text, inputs_of(1))
