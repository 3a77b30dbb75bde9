"""limit-drop: within the budget, or float; and what it says."""

from __future__ import annotations

import math

import pytest
import torch

import graphopt as go
from graphopt.errors import DataError
from graphopt.passes.quantize.pairs import pairs, strip
from graphopt.passes.quantize.recovery.effects import effects, output_noise
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from tests.passes.quantize.recovery.models import graph_of, images, uneven

INT8 = "insert-qdq{everything=true},calibrate"
SPREAD = 3000.0


def limited(text, data=None, **options):
    data = images(4) if data is None else data
    graph = graph_of(uneven(SPREAD), images(1))
    plain = graph.clone()
    report = go.optimize(graph, f"{INT8},limit-drop{{everything=true,{text}}}", data, **options)
    return graph, plain, report.passes[-1]


def noise(graph, plain, data):
    got, want = ([run(each, inputs)[0] for inputs in data] for each in (graph, plain))
    return float(
        sum((g - w).square().sum() for g, w in zip(got, want, strict=True)) / sum(w.square().sum() for w in want)
    )


def test_as_few_layers_as_it_takes():
    _, _, loose = limited("max-drop=100")
    assert not loose.modified
    assert "within" in loose.notes[0]
    first = loose.details["drop"]
    graph, plain, report = limited(f"max-drop={first / 4}")
    assert report.modified
    assert 0 < len(report.details["float"]) < 8
    assert noise(graph, plain, images(4)) == pytest.approx(report.details["drop"], rel=1e-4)
    assert report.details["drop"] <= first / 4
    assert any(True for _ in pairs(graph))
    tighter = limited(f"max-drop={first / 40}")[2]
    assert len(tighter.details["float"]) >= len(report.details["float"])
    graph.verify()


def test_out_of_reach_is_float_and_says_so():
    graph, plain, report = limited("max-drop=1e-12")
    assert not any(True for _ in pairs(graph))
    inputs = images(1, 9)[0]
    assert compare(run(graph, inputs), run(plain, inputs)).max_abs == 0
    assert report.notes[0].startswith("WARNING: no quantization keeps")
    assert report.details["best_attempt"]["drop"] > 0


def test_the_users_measure_decides():
    seen = []

    def evaluate(graph):
        seen.append(sum(1 for _ in pairs(graph)))
        return -float(seen[-1] > 6)  # anything with more than six pairs is useless

    graph, _, report = limited("max-drop=0.5", evaluate=evaluate)
    assert sum(1 for _ in pairs(graph)) <= 6
    assert len(seen) >= 3
    assert "the measure drops by" in report.notes[0]


def test_labels_are_a_measure():
    plain = graph_of(uneven(SPREAD), images(1))
    data = [(*inputs, run(plain, inputs)[0].argmax(1)) for inputs in images(6)]
    graph, _, report = limited("max-drop=0.01", data=data)
    hits = torch.cat([run(graph, (x,))[0].argmax(1) == y for x, y in data])
    assert float(hits.float().mean()) >= 0.99 or not any(True for _ in pairs(graph))
    assert "accuracy" in report.notes[0]


def test_no_budget_no_work():
    _, _, report = limited("max-drop=0")
    assert not report.modified
    graph = graph_of(uneven(), images(1))
    with pytest.raises(DataError, match="needs data"):
        go.optimize(graph, "insert-qdq{everything=true},limit-drop{max-drop=0.1}")


def test_through_the_alias():
    graph = graph_of(uneven(SPREAD), images(1))
    report = go.optimize(graph, "quantize{everything=true,max-drop=1e-12}", images(2))
    assert "left float" in report.of("limit-drop").notes[0]
    assert not any(node.op == "QuantizeLinear" for node in graph)


def test_effects_of_layers():
    data = images(3)
    graph = graph_of(uneven(SPREAD), data)
    go.optimize(graph, INT8 + "{method=minmax}", data)
    found = effects(graph, data)
    total = output_noise(graph, data)
    assert max(found, key=lambda each: each.alone).node.op == "Conv"
    assert 0 < max(each.alone for each in found) <= 1.5 * total
    assert min(each.without for each in found) < total
    assert strip(graph) > 0
    assert output_noise(graph, data) == 0


def test_measure_effects_reports_and_changes_nothing():
    data = images(2)
    graph = graph_of(uneven(SPREAD), data)
    go.optimize(graph, INT8, data)
    before = str(graph)
    report = go.optimize(graph, "measure-effects", data).passes[-1]
    assert not report.modified
    assert str(graph) == before
    layers = report.details["layers"]
    found = {each.node.outputs[0].name: each for each in effects(graph, data[:1])}
    assert list(layers) == list(found)
    for name, effect in found.items():
        assert layers[name]["alone_db"] == pytest.approx(-10 * math.log10(effect.alone))
    assert "most harm: conv2d" in report.notes[0]
    assert report.details["all_db"] <= max(each["without_db"] for each in layers.values())


def test_of_two_orders_the_faster_result_is_taken(tmp_path):
    """The convolutions make the most noise; where only they save time, the rest goes back to float before them."""
    costs = "[operators.{0}]\ncost.floats = {{ call = {1} }}\ncost.integers = {{ call = 0 }}\n"
    path = tmp_path / "mine.toml"
    path.write_text('extends = "generic"\nname = "mine"\n' + costs.format("Conv", 1e9) + costs.format("Gemm", 10))
    left = {}
    for everything in ("true", "false"):
        graph = graph_of(uneven(SPREAD), images(1))
        place = f'target="{path}",everything={everything}'
        go.optimize(graph, f'insert-qdq{{{place}}},calibrate{{target="{path}"}}', images(2))
        full = sum(1 for _ in pairs(graph))
        report = go.optimize(
            graph, f"limit-drop{{{place},max-drop=0.5}}", images(2),
            evaluate=lambda graph, full=full: float(sum(1 for _ in pairs(graph)) < full),  # any layer will do
        )  # fmt: skip
        left[everything] = [name.partition("_")[0] for name in report.passes[-1].details["float"]]
    assert left == {"true": ["Conv"], "false": ["Gemm"]}
