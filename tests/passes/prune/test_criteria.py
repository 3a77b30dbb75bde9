"""Criteria against what torch says, or against their papers' formulas written out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import graphopt as go
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.errors import DataError, OptionError, PassError
from graphopt.passes.prune import (
    Evidence,
    PruneChannels,
    all_criteria,
    criterion,
    find_criterion,
    flow_criterion,
    slice_criterion,
)
from graphopt.passes.prune.criteria import registry
from graphopt.passes.prune.importance import normalised, score_components
from graphopt.pipeline import Context


def network():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def batches(count=3):
    return [(torch.randn(5, 3, 8, 8), torch.randint(0, 4, (5,))) for _ in range(count)]


@pytest.fixture
def case():
    module = network()
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([3.0, -0.1, 2, 1, -4, 0.5]))
    graph = go.capture(module, (torch.randn(5, 3, 8, 8),))
    return module, graph


def weight_of(graph, name):
    return next(value for value in graph.constants if value.name == name)


def elements(graph, name, weight, data=None, **options):
    evidence = Evidence(Context(graph, data, **options), graph)
    return find_criterion(name).elements(weight_of(graph, weight), evidence)


def scores_of(graph, name, parameter, data=None, reduction="sum", **options):
    """Scores of the group that cuts `parameter`'s dimension 0, in the order of its channels."""
    coupling = ChannelCoupling(graph)
    weight = weight_of(graph, parameter)
    factor = coupling.atoms.factors[coupling.extents.of(weight, 0)][0]
    evidence = Evidence(Context(graph, data, **options), graph)
    scores, notes = score_components(coupling, find_criterion(name), evidence, coupling.groups, reduction)
    return scores[coupling.atoms.component[factor.atoms]], notes


def gradients(module, data, power):
    """Mean of ``abs(gradient) ** power`` over batches, by torch alone."""
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for x, labels in data:
        module.zero_grad()
        F.cross_entropy(module(x), labels).backward()
        for name, p in module.named_parameters():
            total[name] += p.grad.abs() ** power / len(data)
    return total


def test_taylor_and_obd_c_are_torchs_gradients(case):
    module, graph = case
    data = batches()
    for name, power, scale in (("taylor", 1, 1.0), ("obd-c", 2, 0.5)):
        wanted = gradients(module, data, power)
        for weight in ("0.weight", "3.weight", "7.weight", "3.bias", "1.weight"):
            w = dict(module.named_parameters())[weight].detach()
            torch.testing.assert_close(elements(graph, name, weight, data), scale * w.abs() ** power * wanted[weight])


def test_the_loss_may_be_ones_own_and_needs_no_labels(case):
    module, graph = case
    ((x, _),) = batches(1)
    got = elements(graph, "taylor", "7.weight", [x], loss=lambda output, labels: output.square().sum())
    module(x).square().sum().backward()
    torch.testing.assert_close(got, (module[7].weight * module[7].weight.grad).abs().detach())


def test_hessian_is_exact_where_the_hessian_is_diagonal():
    module = nn.Sequential(nn.Linear(4, 3, bias=False))
    graph = go.capture(module, (torch.eye(4),))
    scale = torch.tensor([1.0, 2, 3, 4])
    data = [(torch.diag(scale), torch.zeros(4))]
    got = elements(graph, "hessian", "0.weight", data, loss=lambda output, labels: output.square().sum())
    w = module[0].weight.detach()
    torch.testing.assert_close(got, w.square() * 2 * scale.square() / 2)  # d2/dw_oi^2 sum (w_oi s_i)^2 = 2 s_i^2


def test_hessian_estimates_torchs_diagonal():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, labels = torch.randn(16, 3, dtype=torch.float64), torch.randint(0, 2, (16,))
    graph = go.capture(module, (x,))
    w = module[0].weight

    def loss(weight):
        return F.cross_entropy(module[2](torch.tanh(F.linear(x, weight, module[0].bias))), labels)

    full = torch.autograd.functional.hessian(loss, w.detach()).reshape(12, 12)
    evidence = Evidence(Context(graph, [(x, labels)] * 400), graph, batches=0)  # many batches: many probes
    got = evidence.curvatures[weight_of(graph, "0.weight")]
    assert torch.corrcoef(torch.stack([got.flatten().double(), full.diagonal()]))[0, 1] > 0.9


def test_hessian_of_a_loss_without_second_derivative_says_so(case):
    def loss(output, labels):  # torch has no second derivative of this implementation
        x = output.reshape(1, 1, 5, 4)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(x, x, x).square().sum()

    with pytest.raises(PassError, match="obd-c"):
        elements(case[1], "hessian", "7.weight", batches(), loss=loss)


def test_magnitudes(case):
    module, graph = case
    w = module[3].weight.detach()
    for name, wanted in (("l1", w.abs()), ("l2", w.square()), ("linf", w.abs())):
        torch.testing.assert_close(elements(graph, name, "3.weight"), wanted)
    got, _ = scores_of(graph, "linf", "3.weight")
    after = module[7].weight.detach().abs().amax(0)
    np.testing.assert_allclose(got, w.abs().amax((1, 2, 3)).double() + after, rtol=1e-6)


def test_lamp_is_the_papers_formula(case):
    module, graph = case
    flat = module[7].weight.detach().square().flatten()
    wanted = [float(v / flat[flat >= v].sum()) for v in flat]
    np.testing.assert_allclose(elements(graph, "lamp", "7.weight").flatten(), wanted, rtol=1e-5)


def test_fpgm_finds_what_lies_between_the_others():
    module = nn.Sequential(nn.Linear(2, 5, bias=False), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[9.0, 9], [9, -9], [0.5, 0], [-9, 9], [-9, -9]]))
        module[2].weight.fill_(1.0)
    graph = go.capture(module, (torch.randn(3, 2),))
    got, _ = scores_of(graph, "fpgm", "0.weight")
    assert np.argmin(got) == 2
    with pytest.raises(OptionError, match="l3"):
        find_criterion("l3")


def test_bn_scale(case):
    _, graph = case
    got, notes = scores_of(graph, "bn-scale", "0.weight")
    np.testing.assert_allclose(got, [3.0, 0.1, 2, 1, 4, 0.5], rtol=1e-6)
    assert notes == ["criterion bn-scale says nothing about 1 groups, which are ranked by l2"]
    go.optimize(graph, "fuse")
    with pytest.raises(DataError, match="before fuse"):
        scores_of(graph, "bn-scale", "3.weight")


def test_activation_and_apoz_see_what_the_next_layer_reads(case):
    module, graph = case
    data = [(x,) for x, _ in batches(2)]
    with torch.no_grad():
        seen = torch.cat([module[2](module[1](module[0](x))) for (x,) in data])
    got, _ = scores_of(graph, "activation", "0.weight", data)
    np.testing.assert_allclose(got, seen.abs().double().mean((0, 2, 3)), rtol=1e-5)
    got, _ = scores_of(graph, "apoz", "0.weight", data)
    np.testing.assert_allclose(got, (seen != 0).double().mean((0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_wanda_multiplies_by_the_norm_of_the_input(groups):
    module = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 12, 3, groups=groups), nn.Flatten(), nn.Linear(48, 5)
    )
    x = torch.randn(4, 3, 4, 4)
    graph = go.capture(module, (x,))
    hidden = module[1](module[0](x)).detach()
    norms = hidden.square().sum((0, 2, 3)).sqrt()
    w = module[2].weight.detach().abs()
    rows = [norms.reshape(groups, -1)[o // (12 // groups)] for o in range(12)]
    wanted = w * torch.stack(rows)[:, :, None, None]
    torch.testing.assert_close(elements(graph, "wanda", "2.weight", [(x,)]), wanted)
    flat = module[3](module[2](hidden)).detach()
    wanted = module[4].weight.detach().abs() * flat.square().sum(0).sqrt()
    torch.testing.assert_close(elements(graph, "wanda", "4.weight", [(x,)]), wanted)


def test_reductions(case):
    module, graph = case
    own = module[3].weight.detach().abs().sum((1, 2, 3)).double().numpy()
    next_ = module[7].weight.detach().abs().sum(0).double().numpy()
    for reduction, wanted in (
        ("sum", own + next_), ("mean", (own + next_) / 2), ("max", np.maximum(own, next_)), ("first", own),
    ):  # fmt: skip
        got, _ = scores_of(graph, "l1", "3.weight", reduction=reduction)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_normalisations(case):
    _, graph = case
    group = ChannelCoupling(graph).groups[0]
    scores = np.zeros(100)
    own = scores[group.components] = np.arange(1.0, len(group) + 1)
    for how, wanted in (
        ("none", own), ("mean", own / own.mean()), ("max", own / own.max()), ("sum", own / own.sum()),
        ("standardise", (own - own.mean()) / own.std()),
    ):  # fmt: skip
        np.testing.assert_allclose(normalised(scores, [group], how)[group.components], wanted)
        assert np.isfinite(normalised(np.zeros(100), [group], how)).all()


@pytest.mark.parametrize("name", ["taylor", "obd-c", "hessian", "activation", "apoz", "wanda"])
def test_criteria_that_need_data_say_so(case, name):
    _, graph = case
    before = str(graph)
    with pytest.raises(DataError, match="data") as error:
        go.optimize(graph, f"prune-channels{{criterion={name}}}")
    assert error.value.hint
    assert str(graph) == before
    if name in ("taylor", "obd-c", "hessian"):
        with pytest.raises(DataError, match="labels"):
            go.optimize(graph, f"prune-channels{{criterion={name}}}", [x for x, _ in batches()])


def test_non_finite_weights_are_named():
    module = network()
    with torch.no_grad():
        module[3].weight[0, 0, 0, 0] = math.nan
    graph = go.capture(module, (torch.randn(5, 3, 8, 8),))
    for name in ("l1", "fpgm"):
        with pytest.raises(DataError, match=r"3\.weight"):
            go.optimize(graph, f"prune-channels{{criterion={name}}}", check=False)


@pytest.mark.parametrize("name", all_criteria())
def test_every_criterion_prunes_torch_and_onnx_alike(case, name, tmp_path):
    _, graph = case
    go.save(graph, tmp_path / "model.onnx")
    loaded = go.load(tmp_path / "model.onnx")
    data = batches(2)
    step = PruneChannels(0.4, name, "global")
    kept = [go.optimize(each, [step], data).kept for each in (graph, loaded)]
    assert kept[0]["3.weight"] == kept[1]["3.weight"]
    assert len(kept[0]["3.weight"][1]) < 6 or len(kept[0]["3.weight"][0]) < 8


def test_a_custom_criterion_is_one_function(case, monkeypatch):
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))

    @criterion("half")
    def half(weight, evidence):
        """Half of it."""
        return weight.data.abs() / 2

    @slice_criterion("range")
    def spread(slices, weight, evidence):
        return slices.amax(1) - slices.amin(1)

    @flow_criterion("peak")
    def peak(value, dim, evidence):
        found = evidence.activations.get((value, dim))
        return None if found is None else found.squares.sqrt()

    module, graph = case
    assert find_criterion("half").doc == "Half of it."
    np.testing.assert_allclose(scores_of(graph, "half", "3.weight")[0] * 2, scores_of(graph, "l1", "3.weight")[0])
    got, _ = scores_of(graph, "range", "3.weight", reduction="first")
    w = module[3].weight.detach().flatten(1)
    np.testing.assert_allclose(got, w.amax(1) - w.amin(1), rtol=1e-6)
    for name in ("half", "range", "peak"):
        assert go.optimize(graph.clone(), f"prune-channels{{criterion={name}}}", batches(1)).modified
