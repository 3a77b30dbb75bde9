"""Sensitivity curves, the allocation that is made of them, and iterative schedules."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.errors import DataError, OptionError, PassError
from graphopt.models import build
from graphopt.passes.prune import PruneChannels, allocate, iterative
from graphopt.passes.train import Finetune
from graphopt.runtime import run
from tests.zoo import captured


def network():
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    with torch.no_grad():  # half of the first layer does nothing
        module[0].weight[8:] *= 1e-4
        module[0].bias[8:] = 0
        module[2].weight[:, 8:] *= 1e-4
    return module


def batches():
    return [(torch.randn(32, 6), torch.randint(0, 3, (32,))) for _ in range(2)]


@pytest.fixture
def case():
    module = network()
    return module, go.capture(module, (torch.randn(32, 6),)), batches()


def test_curves_are_what_pruning_each_group_alone_gives(case):
    module, graph, data = case
    before = str(graph)
    report = go.optimize(graph, "sensitivity{ratios=[0.5,0.25]}", data)
    found = report.passes[0].details["sensitivity"]
    assert str(graph) == before
    assert not report.modified
    assert (found["metric"], found["ratios"], found["higher_is_better"]) == ("loss", [0.25, 0.5], False)
    with torch.no_grad():
        losses = [float(F.cross_entropy(module(x), y)) for x, y in data]
    assert found["baseline"] == pytest.approx(np.mean(losses), rel=1e-5)
    for curve, other in zip(found["curves"], (2, 0), strict=True):
        assert (curve["kind"], curve["components"]) == ("ffn", 16)
        for ratio, value in zip(found["ratios"], curve["values"], strict=True):
            twin = graph.clone()
            go.optimize(twin, [PruneChannels(ratio, ignore=("4" if other == 2 else "0",))])
            losses = [float(F.cross_entropy(run(twin, [x])[0], y)) for x, y in data]
            assert value == pytest.approx(np.mean(losses), rel=1e-4)
    first, _ = found["curves"]
    assert first["values"][-1] == pytest.approx(found["baseline"], abs=1e-4)
    assert "4.weight" in report.passes[0].notes[-1]


def test_allocation_spares_the_sensitive_group_and_feeds_prune_channels(case):
    _, graph, data = case
    found = go.optimize(graph, "sensitivity{target=0.4,metric=change}", data).passes[0].details["sensitivity"]
    first, second = found["allocation"].values()
    assert first > second
    assert (first + second) / 2 == pytest.approx(0.4, abs=0.01)
    go.optimize(graph, [PruneChannels(ratios=found["allocation"])])
    widths = [value.shape[0] for value in graph.constants if value.name in ("0.weight", "2.weight")]
    assert widths == [16 - int(first * 16 + 1e-9), 16 - int(second * 16 + 1e-9)]


def test_allocation_costs_each_group_the_same():
    found = {
        "higher_is_better": True, "baseline": 1.0, "ratios": [0.25, 0.5, 1.0],
        "curves": [{"group": "a", "components": 10, "values": [0.9, 0.8, 0.6]},
                   {"group": "b", "components": 30, "values": [0.8, 0.6, 0.2]}],
    }  # fmt: skip
    ratios = allocate(found, 0.3)
    assert ratios["a"] == pytest.approx(2 * ratios["b"], abs=1e-3)
    assert (10 * ratios["a"] + 30 * ratios["b"]) / 40 == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("metric", ["accuracy", "change", "evaluate", "loss"])
def test_metrics(case, metric):
    _, graph, data = case
    report = go.optimize(
        graph, f"sensitivity{{metric={metric},ratios=[0.5]}}", data, evaluate=lambda g: -Cost(g).weights
    )
    found = report.passes[0].details["sensitivity"]
    if metric == "change":
        assert found["baseline"] == 0
        assert found["curves"][0]["values"][0] < 1e-3 < found["curves"][1]["values"][0]
    if metric == "evaluate":
        assert found["curves"][0]["values"] == [-(Cost(graph).weights - 8 * (6 + 1 + 16))]
    if metric == "accuracy":
        assert 0 <= found["curves"][1]["values"][0] <= 1


def test_files(case, tmp_path):
    _, graph, data = case
    for name in ("curves.json", "curves.html"):
        go.optimize(graph, f'sensitivity{{file="{tmp_path / name}"}}', data)
    assert len(json.loads((tmp_path / "curves.json").read_text())["curves"]) == 2

    class Lines(HTMLParser):
        points = ()

        def handle_starttag(self, tag, attributes):
            if tag == "polyline":
                self.points += (dict(attributes)["points"].split(),)

    page = Lines()
    page.feed((tmp_path / "curves.html").read_text())
    assert [len(points) for points in page.points] == [4, 4]
    assert "http" not in (tmp_path / "curves.html").read_text()


def test_the_report_draws_them(case):
    from graphopt.pipeline.html import to_html

    _, graph, data = case
    report = go.optimize(graph, "sensitivity{target=0.4,ratios=[0.5]}", data)
    found = report.passes[0].details["sensitivity"]
    page = to_html(report)
    lines = re.findall(r'<polyline class="curve" points="0.0,([\d.]+) 50.0,([\d.]+)"', page)
    first = max(found["curves"], key=lambda curve: abs(curve["values"][0] - found["baseline"]))
    assert len(lines) == len(found["curves"])
    assert float(lines[0][0]) == 96 or float(lines[0][1]) == 96  # the lowest value of all is at the bottom
    assert page.index(first["group"]) < page.index(next(c["group"] for c in found["curves"] if c is not first))
    assert f"allocated ratio {found['allocation'][first['group']]}" in page


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit", "lstm_tagger"])
def test_zoo(name):
    _, args = build(name)
    graph = captured(name)
    found = go.optimize(graph, "sensitivity{ratios=[0.5]}", [tuple(args)]).passes[0].details["sensitivity"]
    assert found["metric"] == "change"
    assert all(np.isfinite(curve["values"]).all() and curve["values"][0] > 0 for curve in found["curves"])


def test_bad_input(case):
    _, graph, data = case
    with pytest.raises(DataError, match="needs data"):
        go.optimize(graph, "sensitivity")
    with pytest.raises(DataError, match="labels"):
        go.optimize(graph, "sensitivity{metric=accuracy}", [x for x, _ in data])
    with pytest.raises(OptionError, match="measure"):
        go.optimize(graph, "sensitivity{metric=evaluate}", data)
    with pytest.raises(PassError, match="nothing can be pruned"):
        go.optimize(graph, 'sensitivity{ignore=["*"]}', data)
    for text in ("ratios=[0,0.5]", "target=1", "file=curves.png", "metric=size"):
        with pytest.raises(OptionError):
            go.optimize(graph, f"sensitivity{{{text}}}", data)


def test_iterative_pruning_reaches_the_same_size_in_steps(case):
    _, graph, data = case
    whole = Cost(graph).weights
    passes = iterative(PruneChannels(params=0.3), Finetune(epochs=1, lr=0.01), steps=3)
    report = go.optimize(graph, passes, data)
    assert [entry.name.partition("{")[0] for entry in report.passes] == ["prune-channels", "finetune"] * 3
    assert Cost(graph).weights / whole == pytest.approx(0.3, rel=0.06)
    graph = go.capture(network(), (torch.randn(32, 6),))
    go.optimize(graph, iterative(PruneChannels(0.5), Finetune(epochs=0), steps=2), data)
    assert [v.shape[0] for v in graph.constants if v.name.endswith("weight")] == [9, 9, 3]  # 16 -> 12 -> 9
    with pytest.raises(OptionError, match="steps"):
        iterative(PruneChannels(), Finetune(), 0)
