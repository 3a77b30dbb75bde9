"""Budgets are met, limits are kept, and what is predicted is what comes out."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.analysis import propagate
from graphopt.analysis.cost import Cost
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.errors import OptionError, PassError
from graphopt.models import ZOO
from graphopt.passes.prune import PruneChannels
from graphopt.passes.prune.budget import solve, solve_latency
from graphopt.passes.prune.counts import PredictedCost
from graphopt.passes.prune.plan import Limits, Plan
from graphopt.passes.prune.removal import Removal
from graphopt.passes.prune.selection import eligible
from tests.zoo import captured


def figures(graph):
    cost = Cost(graph)
    return {"params": cost.weights, "macs": cost.macs, "bytes": cost.weight_bytes}


@pytest.fixture(scope="module", params=ZOO)
def model(request):
    return request.param, captured(request.param)


def test_prediction_is_exact(model):
    _, graph = model
    random = np.random.default_rng(0)
    coupling = ChannelCoupling(graph)
    groups, _ = eligible(coupling, (), 0.5)
    predicted = PredictedCost(coupling, groups)
    counts = np.array([random.integers(0, len(group)) for group in groups])
    components = np.concatenate([g.components[:n] for g, n in zip(groups, counts, strict=True)])
    wanted = {name: getattr(predicted, name)(counts) for name in ("params", "macs", "bytes")}
    twin = graph.clone()
    Removal(twin, ChannelCoupling(twin), components).apply()
    propagate(twin)
    assert figures(twin) == wanted


@pytest.mark.parametrize(("figure", "target"), [("params", 0.5), ("macs", 0.7), ("macs", 0.35), ("bytes", 0.6)])
def test_budgets_are_met_within_two_percent(model, figure, target):
    name, original = model
    for scope in ("uniform", "global", "isomorphic"):
        graph = original.clone()
        try:
            report = go.optimize(graph, [PruneChannels(scope=scope, **{figure: target})], check=False)
        except PassError:
            assert name == "bert"  # its width is frozen
            continue
        left = figures(graph)[figure] / figures(original)[figure]
        budget = report.passes[0].details["budget"]
        assert left == pytest.approx(budget["achieved"])
        told = any("instead of" in note for note in report.passes[0].notes)
        assert abs(left - target) <= 0.02 * target or (told and name in ("lstm_tagger", "gru_classifier"))


@pytest.mark.parametrize("options", [{"macs": 0.5}, {"params": 0.4, "scope": "global"}])
def test_pruned_to_a_budget_is_still_the_masked_original(options):
    for name in ("resnext", "mobilenet_v3", "vit"):
        assert go.optimize(captured(name), [PruneChannels(**options)]).modified


def mlp(*widths):
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def graph_of(*widths):
    return go.capture(mlp(*widths), (torch.randn(2, widths[0]),))


def widths_of(graph):
    return [value.shape[0] for value in graph.constants if value.name.endswith("weight")]


def test_what_cannot_be_reached_is_an_error_that_says_what_is_left():
    graph = graph_of(100, 10, 100)
    with pytest.raises(PassError, match="with every group at its limit") as error:
        go.optimize(graph, "prune-channels{params=0.1}")
    assert "max-ratio" in error.value.hint
    assert widths_of(graph) == [10, 100]
    go.optimize(graph, "prune-channels{params=0.15}")  # one of ten channels is left


def test_what_cannot_be_met_exactly_is_reported():
    report = go.optimize(graph_of(8, 4, 8), "prune-channels{params=0.62}")
    (note,) = [note for note in report.passes[0].notes if "instead of" in note]
    assert "the next step of any group is further away" in note


def test_rounding_minimum_and_ratios_of_ones_own():
    graph = graph_of(16, 64, 64, 64, 8)
    go.optimize(graph, "prune-channels{params=0.5,round-to=8}")
    assert all(width % 8 == 0 for width in widths_of(graph))
    graph = graph_of(16, 64, 64, 64, 8)
    go.optimize(graph, 'prune-channels{ratio=0.9,min-channels=20,ratios={"0.*":0.25,"6":0}}')
    assert widths_of(graph) == [48, 20, 64, 8]
    graph = graph_of(16, 64, 64, 64, 8)
    go.optimize(graph, 'prune-channels{macs=0.5,ratios={"0.*":0.25}}')
    assert widths_of(graph)[0] == 48


def test_max_ratio_binds_under_a_budget():
    graph = graph_of(16, 64, 64, 8)
    go.optimize(graph, "prune-channels{params=0.35,scope=global,max-ratio=0.5}")
    assert min(widths_of(graph)[:2]) >= 32


def test_isomorphic_groups_are_ranked_among_themselves():
    graph = captured("vit")
    report = go.optimize(graph, "prune-channels{ratio=0.5,scope=isomorphic}")
    table = report.passes[0].details["groups"]
    for kind in ("ffn", "heads"):
        mine = [row for row in table if row["kind"] == kind]
        removed, total = (sum(row[k] for row in mine) for k in ("removed", "components"))
        assert not mine or abs(removed / total - 0.5) <= 0.1


@pytest.mark.parametrize(("name", "kind"), [
    ("vit", "heads"), ("vit", "head-dim"), ("vit", "ffn"), ("vit", "embedding"), ("gpt", "heads"), ("bert", "ffn"),
    ("swin", "heads"), ("resnext", "groups"), ("resnext", "channels"), ("lstm_tagger", "hidden"),
])  # fmt: skip
def test_kinds(name, kind):
    graph = captured(name)
    report = go.optimize(graph, f"prune-channels{{ratio=0.5,kinds={kind}}}")
    assert {row["kind"] for row in report.passes[0].details["groups"]} == {kind}
    if kind == "groups":
        assert {n.attributes["group"] for n in graph.nodes if n.op == "Conv" and n.attributes.get("group", 1) > 1} == {
            4
        }


def test_an_absent_kind_names_those_that_are_there():
    with pytest.raises(PassError, match="nothing can be pruned") as error:
        go.optimize(graph_of(4, 8, 4), "prune-channels{kinds=heads}")
    assert "ffn" in error.value.hint


def test_latency_falls_to_the_target():
    torch.manual_seed(0)
    graph = graph_of(256, 1024, 1024, 256)
    report = go.optimize(graph, "prune-channels{latency=0.5}", check=False)
    assert report.passes[0].details["budget"]["figure"] == "latency"
    # Measured on a shared machine: in the neighbourhood is all that a test can ask.
    assert 0.1 < figures(graph)["macs"] / figures(graph_of(256, 1024, 1024, 256))["macs"] < 0.9


def test_a_large_step_is_made_up_for_by_small_ones():
    """At 0.28 no single step helps: the large group has to give one back, and the small one to lose some."""
    coupling = ChannelCoupling(graph_of(4, 10, 40, 4))
    groups, _ = eligible(coupling, (), 0.9)
    large, small = sorted(range(2), key=lambda k: len(groups[k]))
    scores = np.arange(coupling.atoms.components, dtype=float)
    plan = Plan(groups, scores, scores, "global", Limits(max_ratio=0.9))
    solution = solve(plan, lambda counts: 1 - 0.08 * counts[large] - 0.004 * counts[small], 0.3, "macs")
    assert solution.achieved == pytest.approx(0.3, rel=0.02)
    assert not solution.why


def pictures():
    """Many multiply-accumulates where pictures are large, many parameters where they are small."""
    graph, generator = go.Graph(), torch.Generator().manual_seed(0)
    value = graph.add_input("x", go.TensorType.make(go.DType.FLOAT32, ("n", 3, "height", "width")))
    for made, read, size in ((16, 3, 3), (16, 16, 3), (128, 16, 1), (8, 128, 1)):
        if size == 1 and read == 16:
            value = graph.add("AveragePool", value, kernel_shape=(8, 8), strides=(8, 8))
        weight = graph.add_constant(torch.randn(made, read, size, size, generator=generator), f"w{made}_{read}")
        value = graph.add("Relu", graph.add("Conv", value, weight))
    graph.add_output(value, "y")
    return graph


def test_open_sizes_are_those_of_the_data():
    graph, data = pictures(), torch.randn(4, 3, 96, 64)
    report = go.optimize(graph, "prune-channels{macs=0.5}", [data], check=False)
    whole = pictures()
    propagate(whole)
    sizes = {"height": 96, "width": 64}
    part = Cost(graph, sizes).macs / Cost(whole, sizes).macs
    assert part == pytest.approx(0.5, rel=0.02)
    assert report.passes[0].details["budget"]["achieved"] == pytest.approx(part)
    assert not any("height=1" in note for note in report.passes[0].notes)


def test_open_sizes_that_nobody_tells_are_a_note():
    report = go.optimize(pictures(), "prune-channels{params=0.5}", check=False)
    assert not any("height" in note for note in report.passes[0].notes)
    report = go.optimize(pictures(), "prune-channels{macs=0.5}", check=False)
    assert any("counted at height=1, width=1: give data" in note for note in report.passes[0].notes)


def test_latency_is_measured_at_sizes_that_run():
    graph = pictures()  # which two pixels, as made-up inputs have them, are too small for
    assert go.optimize(graph, "prune-channels{latency=0.8}", check=False).modified


class SlowOnOddWidths:
    """A runtime that is as slow as ever until nearly all is gone."""

    def of(self, components):
        return 1.0 if len(components) < 900 else 0.6


@pytest.mark.parametrize(("round_to", "advised"), [(1, True), (8, False)])
def test_a_latency_that_is_not_met_advises_rounding(round_to, advised):
    graph = graph_of(8, 1024, 4)
    coupling = ChannelCoupling(graph)
    groups, _ = eligible(coupling, (), 0.5)
    scores = np.arange(coupling.atoms.components, dtype=float)
    plan = Plan(groups, scores, scores, "uniform", Limits(round_to))
    solution = solve_latency(plan, SlowOnOddWidths(), 0.8)
    slow, fast = re.search(r"1\.000 without (\d+) components and 0\.600 without (\d+)", solution.why).groups()
    assert int(slow) < 900 <= int(fast)
    assert ("round-to=8" in solution.why) == advised
    with pytest.raises(PassError, match=r"latency=0\.5 cannot be reached: .* 0\.600 of it is left") as error:
        solve_latency(plan, SlowOnOddWidths(), 0.5)
    assert ("round-to=8" in error.value.hint) == advised


@pytest.mark.parametrize(("part_of", "cause"), [
    (lambda size: 0.7 if size < 500 else 0.3, "time falls in steps"),
    (lambda size: 0.7 if size < 500 else 0.3 + size / 20_000, "not always faster"),
    (lambda size: 0.3, "even the smallest selection measured is faster"),
    (lambda size: 0.505, ""),
])  # fmt: skip
def test_the_reason_why_a_latency_is_not_met(part_of, cause):
    class Measured:
        def of(self, components):
            return part_of(len(components))

    coupling = ChannelCoupling(graph_of(8, 2048, 4))
    groups, _ = eligible(coupling, (), 0.9)
    scores = np.arange(coupling.atoms.components, dtype=float)
    solution = solve_latency(Plan(groups, scores, scores, "uniform", Limits(8)), Measured(), 0.5)
    assert cause in solution.why
    assert bool(solution.why) == bool(cause)


@pytest.mark.parametrize("text", [
    "params=0", "macs=1.5", "macs=0.5,params=0.5", "min-channels=0", "scope=glob", "ratios={a:1}", "batches=-1",
    "kinds=head", "reduction=median", "normalise=l2",
])  # fmt: skip
def test_bad_options_fail_before_anything_runs(text):
    graph = graph_of(4, 8, 4)
    with pytest.raises(OptionError):
        go.optimize(graph, f"prune-channels{{{text}}}")


def test_a_pattern_that_matches_nothing():
    with pytest.raises(OptionError, match="ratios pattern 'layer9"):
        go.optimize(graph_of(4, 8, 4), 'prune-channels{ratios={"layer9.*":0.5}}')


def test_multiply_accumulates_are_counted_at_the_sizes_of_the_data():
    """With every open size taken for 1 the early layers, which have the most positions, would weigh next to nothing."""
    layers = [nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(24, 96, 3, padding=1), nn.ReLU()]
    torch.manual_seed(0)
    module = nn.Sequential(*layers, nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 4, 1)).eval()
    x = torch.randn(2, 3, 48, 64)
    fixed = go.capture(module, (x,))
    opened = go.capture(module, (x,), dynamic={"input": {2: "height", 3: "width"}})
    for graph in (fixed, opened):
        before = Cost(graph, {"height": 48, "width": 64}).macs
        go.optimize(graph, "prune-channels{macs=0.5}", [(x,)])
        assert Cost(graph, {"height": 48, "width": 64}).macs == pytest.approx(0.5 * before, rel=0.02)
    assert [v.shape for v in opened.constants] == [v.shape for v in fixed.constants]


def upsampled():
    """A neck: features enlarged to a finer level's size, which only numbers show to be the same, and added."""
    graph, generator = go.Graph(), torch.Generator().manual_seed(0)
    x = graph.add_input("x", go.TensorType.make(go.DType.FLOAT32, ("n", 3, "height", "width")))

    def conv(value, made, read, stride):
        weight = graph.add_constant(torch.randn(made, read, 3, 3, generator=generator), f"w{made}_{read}_{stride}")
        return graph.add("Conv", value, weight, strides=(stride, stride), pads=(1, 1, 1, 1))

    fine = graph.add("Relu", conv(x, 16, 3, 2))
    scales = graph.add_constant(torch.tensor([1.0, 1, 2, 2]))
    coarse = graph.add("Resize", conv(fine, 16, 16, 2), None, scales, mode="nearest")
    hidden = graph.add("Relu", conv(graph.add("Add", fine, coarse), 24, 16, 1))
    graph.add_output(conv(hidden, 2, 24, 1), "y")
    return graph


def test_sizes_that_expressions_do_not_show():
    graph, whole = upsampled(), upsampled()
    propagate(whole)
    assert Cost(whole, {"height": 64, "width": 32}).macs == sum(
        made * read * 9 * 64 * 32 // area for made, read, area in ((16, 3, 4), (16, 16, 16), (24, 16, 4), (2, 24, 4))
    )
    report = go.optimize(graph, "prune-channels{macs=0.5}", [torch.randn(1, 3, 64, 32)], check=False)
    sizes = {"height": 64, "width": 32}
    part = Cost(graph, sizes).macs / Cost(whole, sizes).macs
    assert part == pytest.approx(0.5, rel=0.02)
    assert report.passes[0].details["budget"]["achieved"] == pytest.approx(part)
