"""Training that makes components small: the penalty's gradient, what it does, and what pruning then costs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.errors import DataError, OptionError, PassError
from graphopt.passes.prune.regularise import Regularise, smallest
from graphopt.passes.prune.slices import Slices
from graphopt.passes.train import Finetune
from graphopt.runtime import run
from tests import zoo


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    ).eval()


def batches(count=4):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 2, 6, 6, generator=generator),
             torch.randint(0, 3, (16,), generator=generator)) for _ in range(count)]  # fmt: skip


def captured():
    module = network()
    return module, go.capture(module, (torch.randn(2, 2, 6, 6),), dynamic=[{0: "batch"}])


def squares_by_hand(module):
    """The squares of all that goes with a channel of either convolution."""
    first, norm, second, last = (module.get_submodule(path) for path in "0136")
    rows = [first.weight.flatten(1), first.bias[:, None], norm.weight[:, None], norm.bias[:, None],
            second.weight.transpose(0, 1).flatten(1)]  # fmt: skip
    a = torch.cat(rows, 1).square().sum(1)
    b = torch.cat([second.weight.flatten(1), second.bias[:, None],
                   last.weight.reshape(3, 6, 4).transpose(0, 1).flatten(1)], 1).square().sum(1)  # fmt: skip
    return a, b


def test_slices_are_all_that_goes_with_a_channel():
    module, graph = captured()
    coupling = ChannelCoupling(graph)
    student = go.to_torch(graph)
    slices = Slices(coupling, coupling.groups, student)
    got = [slices.squares()[group] for group in slices.groups]
    for mine, wanted in zip(got, squares_by_hand(module), strict=True):
        torch.testing.assert_close(mine, wanted)
    assert [float(slices.sizes[group[0]]) for group in slices.groups] == [2 * 9 + 3 + 54, 72 + 1 + 12]
    (gradient,) = torch.autograd.grad(slices.squares()[slices.groups[0]].sum(), student.get_submodule("0").weight)
    torch.testing.assert_close(gradient, 2 * student.get_submodule("0").weight)
    slices.zero(slices.groups[0][[1, 4]])
    zeroed = squares_by_hand(student)
    assert (zeroed[0] == 0).nonzero().flatten().tolist() == [1, 4]


@pytest.mark.parametrize("name", ["vit", "lstm_tagger", "resnext", "gpt"])
def test_zeroed_components_are_what_pruning_takes(name):
    """On every kind of coupling: pruning what was zeroed changes nothing that a normalisation does not."""
    graph = zoo.captured(name)
    coupling = ChannelCoupling(graph)
    from graphopt.passes.prune.selection import eligible

    groups, _ = eligible(coupling, (), 0.5)
    student = go.to_torch(graph)
    slices = Slices(coupling, groups, student)
    gone = smallest(slices, 0.5)
    slices.zero(gone)
    go.update_from(graph, student)
    report = go.optimize(graph, "prune-channels{ratio=0.5,criterion=l2}", check=False)
    assert report.passes[0].counts["components"] == len(gone)
    for value_name, dims in report.kept.items():
        value = {v.name: v for v in graph.constants}[value_name]
        if value.parameter is not None and not value.parameter.buffer and value.rank >= 2:
            before = dict(student.named_parameters(remove_duplicate=False)).get(value.parameter.name)
            if before is None or before.dim() != value.rank:
                continue
            for dim, kept in dims.items():
                lost = [i for i in range(before.shape[dim]) if i not in set(kept)]
                if value.shape[dim] == len(kept):
                    assert not before.index_select(dim, torch.tensor(lost)).any(), value_name


@pytest.mark.parametrize("method", ["group-lasso", "growing"])
def test_a_step_follows_the_penalty(method):
    module, graph = captured()
    data = batches(2)[:1] if method == "group-lasso" else batches(2)
    options = {"epochs": 1, "lr": 0.1, "optimizer": "sgd", "weight_decay": 0.0, "clip": 0.0}
    plain, penalised = graph.clone(), graph.clone()
    go.optimize(plain, [Finetune(**options)], data)
    go.optimize(penalised, [Regularise(**options, method=method, strength=0.01, ratio=0.5)], data)
    if method == "growing":  # nothing in the first step, half of the strength in the second
        assert not torch.equal(
            go.to_torch(plain).get_submodule("0").weight, go.to_torch(penalised).get_submodule("0").weight
        )
        norms = [squares_by_hand(go.to_torch(each)) for each in (plain, penalised)]
        chosen = [each.argsort()[: len(each) // 2] for each in _proper(module)]
        for k, group in enumerate(chosen):
            assert (norms[1][k][group] < norms[0][k][group]).all()
        return
    a, b = squares_by_hand(module)
    penalty = 0.01 * (75**0.5 * a.sqrt().sum() + 85**0.5 * b.sqrt().sum())
    (gradient,) = torch.autograd.grad(penalty, module[3].weight)
    step = go.to_torch(penalised).get_submodule("3").weight - go.to_torch(plain).get_submodule("3").weight
    torch.testing.assert_close(step.detach(), -0.1 * gradient, rtol=1e-3, atol=1e-6)


def _proper(module):
    first, second, last = (module.get_submodule(path) for path in "036")
    a = first.weight.flatten(1).square().sum(1) + second.weight.transpose(0, 1).flatten(1).square().sum(1)
    b = second.weight.flatten(1).square().sum(1) + last.weight.reshape(3, 6, 4).square().sum((0, 2))
    return a.detach(), b.detach()


@pytest.mark.parametrize("options", [
    "method=soft", "method=growing,strength=20", "method=group-lasso,strength=0.02",
])  # fmt: skip
@pytest.mark.parametrize("onnx", [False, True])
def test_pruning_costs_less_afterwards(options, onnx, tmp_path):
    costs = {}
    for pipeline in ("finetune{epochs=20,lr=0.01}", f"regularise{{{options},ratio=0.5,epochs=20,lr=0.01}}"):
        _, graph = captured()
        if onnx:
            go.save(graph, tmp_path / "model.onnx")
            graph = go.load(tmp_path / "model.onnx")
        go.optimize(graph, pipeline, batches())
        x = torch.cat([each for each, _ in batches()])
        before = run(graph, [x])[0]
        go.optimize(graph, "prune-channels{ratio=0.5,criterion=l2}")
        costs[pipeline.partition("{")[0]] = float(F.mse_loss(run(graph, [x])[0], before) / before.var())
    assert costs["regularise"] < 0.5 * costs["finetune"]
    if "soft" in options:
        assert costs["regularise"] < 1e-8


def test_soft_zeros_may_come_back():
    _, graph = captured()
    coupling = ChannelCoupling(graph)
    student = go.to_torch(graph)
    slices = Slices(coupling, coupling.groups, student)
    gone = smallest(slices, 0.5)
    slices.zero(gone, makers_only=True)
    made = student.get_submodule("3").weight
    zero = (made == 0).all(3).all(2).all(1)
    assert int(zero.sum()) == 3
    optimizer = torch.optim.SGD(student.train().parameters(), 0.1)
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(student(x), y).backward()
        optimizer.step()
    # Where the bias is negative, Relu lets no gradient through: such a channel stays gone.
    alive = student.get_submodule("3").bias > 0
    assert not (made == 0).all(3).all(2).all(1)[alive & zero].any()
    assert (alive & zero).any()


def test_what_is_ignored_is_not_touched_and_bad_input_is_refused():
    _, graph = captured()
    go.optimize(graph, "regularise{method=soft,epochs=1,ignore=['0']}", batches())
    a, b = squares_by_hand(go.to_torch(graph))
    assert (a > 0).all()
    assert int((b == 0).sum()) == 3
    with pytest.raises(PassError, match="nothing can be pruned"):
        go.optimize(graph, "regularise{ignore=['*']}", batches())
    with pytest.raises(DataError, match="data"):
        go.optimize(graph, "regularise")
    for text in ("strength=0", "ratio=1", "method=hard", "lr=0"):
        with pytest.raises(OptionError):
            go.optimize(graph, f"regularise{{{text}}}", batches())
