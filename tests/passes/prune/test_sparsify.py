"""Single weights: which go, what becomes of them, and that training leaves them alone."""

import numpy as np
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError, PassError
from graphopt.models import ZOO, build
from graphopt.passes.prune import all_criteria
from graphopt.passes.prune.layers import input_dim
from tests.zoo import captured


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4),
    ).eval()  # fmt: skip


def batches(count=3):
    return [(torch.randn(5, 4, 6, 6), torch.randint(0, 4, (5,))) for _ in range(count)]


@pytest.fixture
def case():
    module = network()
    return module, go.capture(module, (torch.randn(5, 4, 6, 6),))


def layers(graph):
    return {v.name: v.data for v in graph.constants if v.name.endswith("weight") and v.rank >= 2}


def test_ratio_per_layer_and_over_all(case):
    module, graph = case
    state = module.state_dict()
    per_layer = graph.clone()
    report = go.optimize(per_layer, "sparsify{ratio=0.7}")
    for name, data in layers(per_layer).items():
        before = state[name]
        assert int((data == 0).sum()) == int(0.7 * data.numel() + 1e-9)
        assert before[data == 0].abs().max() <= before[data != 0].abs().min()
        assert torch.equal(data[data != 0], before[data != 0])
    assert report.passes[0].checks["equivalence"]["contract"] == "approximate"
    go.optimize(graph, "sparsify{ratio=0.7,scope=global}")
    data = torch.cat([each.flatten() for each in layers(graph).values()])
    before = torch.cat([state[name].flatten() for name in layers(graph)])
    assert int((data == 0).sum()) == int(0.7 * len(data) + 1e-9)
    assert before[data == 0].abs().max() <= before[data != 0].abs().min()


def test_ratio_of_what_each_output_reads(case):
    module, graph = case
    go.optimize(graph, "sparsify{ratio=0.5,scope=output}")
    for name, data in layers(graph).items():
        before = module.state_dict()[name].movedim(1, -1)
        lines = data.movedim(1, -1)
        assert ((lines == 0).sum(-1) == data.shape[1] // 2).all()
        lost = torch.where(lines == 0, before.abs(), 0).amax(-1)
        assert (lost <= torch.where(lines != 0, before.abs(), torch.inf).amin(-1)).all()


def test_threshold_and_factor_are_the_articles(case):
    module, graph = case
    go.optimize(graph, "sparsify{threshold=0.1,factor=0.1}")
    for name, data in layers(graph).items():
        w = module.state_dict()[name]
        torch.testing.assert_close(data, torch.where(w.abs() >= 0.1, w, w * 0.1))
    _, graph = case[0], go.capture(module, (torch.randn(5, 4, 6, 6),))
    go.optimize(graph, "sparsify{threshold=0.1}")
    for name, data in layers(graph).items():
        w = module.state_dict()[name]
        torch.testing.assert_close(data, w * (w.abs() >= 0.1))


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("2of4", 2, 4), ("1:2", 1, 2)])
def test_n_of_m_inputs_stay(case, pattern, n, m):
    module, graph = case
    report = go.optimize(graph, f'sparsify{{pattern="{pattern}"}}')
    for name, data in layers(graph).items():
        groups = data.movedim(1, -1).reshape(-1, m)
        before = module.state_dict()[name].movedim(1, -1).reshape(-1, m).abs()
        assert ((groups != 0).sum(1) == n).all()
        assert torch.where(groups == 0, before, 0).amax(1).le(torch.where(groups != 0, before, torch.inf).amin(1)).all()
    assert report.passes[0].counts["weights"] == sum(d.numel() for d in layers(graph).values()) * (m - n) // m


def test_a_layer_that_the_pattern_does_not_fit_is_named():
    graph = go.capture(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (torch.randn(2, 6),))
    report = go.optimize(graph, "sparsify{pattern=2of4}")
    assert any("0.weight [8, 6] has no inputs that divide by 2of4" in note for note in report.passes[0].notes)


@pytest.mark.parametrize("name", ["resnext", "vit", "gpt", "lstm_tagger", "unet"])
def test_the_inputs_dimension_is_found(name):
    module, _ = build(name)
    graph = captured(name)
    by_name = {value.name: value for value in graph.constants}
    found = 0
    for path, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and f"{path}.weight" in by_name:
            assert input_dim(by_name[f"{path}.weight"]) == (0 if isinstance(layer, nn.ConvTranspose2d) else 1), path
            found += 1
    assert found
    assert all(input_dim(v) is None for v in graph.constants if v.name.endswith(("bias", "running_mean")))


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name):
    module, _ = build(name)
    graph = captured(name)
    report = go.optimize(graph, "sparsify{ratio=0.5}", check=False)
    table = report.passes[0].details["weights"]
    removed, total = (sum(row[key] for row in table) for key in ("removed", "elements"))
    assert removed / total == pytest.approx(0.5, abs=0.01)
    assert total > 0.5 * sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "name", [name for name, each in all_criteria().items() if each.elements and name != "bn-scale"]
)
def test_criteria(case, name):
    _, graph = case
    if name == "bn-scale":  # it scores no weight of a layer
        with pytest.raises(PassError, match="no weight"):
            go.optimize(graph, "sparsify{criterion=bn-scale}")
        return
    report = go.optimize(graph, f"sparsify{{criterion={name},scope=global}}", batches())
    assert report.passes[0].counts["weights"] == sum(d.numel() for d in layers(graph).values()) // 2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_keeps_the_zeros(case, optimizer):
    _, graph = case
    data = batches()
    go.optimize(graph, f"sparsify{{ratio=0.6}},finetune{{epochs=3,lr=0.01,optimizer={optimizer}}}", data)
    zeros = {name: each == 0 for name, each in layers(graph).items()}
    assert all(mask.double().mean() == pytest.approx(0.6, abs=0.02) for mask in zeros.values())
    before = {name: each.clone() for name, each in layers(graph).items()}
    go.optimize(graph, "finetune{epochs=2,lr=0.01,keep-zeros=true}", data)  # another run, which knows of no sparsify
    for name, each in layers(graph).items():
        assert torch.equal(each == 0, zeros[name])
        assert not torch.equal(each, before[name])
    go.optimize(graph, "finetune{epochs=1,lr=0.01}", data)
    assert any(int((each == 0).sum()) < int(zeros[name].sum()) for name, each in layers(graph).items())


def test_weights_made_small_can_come_back(case):
    _, graph = case
    go.optimize(graph, "sparsify{ratio=0.6,factor=0.1},finetune{epochs=1,lr=0.01}", batches())
    assert all((each != 0).all() for each in layers(graph).values())


def test_sparse_weights_reach_onnx_and_torch(case, tmp_path):
    _, graph = case
    go.optimize(graph, "sparsify{pattern=2of4}")
    go.save(graph, tmp_path / "sparse.onnx")
    for again in (layers(go.load(tmp_path / "sparse.onnx")), go.to_torch(graph).state_dict()):
        for name, data in layers(graph).items():
            np.testing.assert_array_equal(again[name], data)


def test_what_is_added_stays_whole():
    """Biases and states of a recurrent network, and what Gemm adds, may have two dimensions and are no weights."""
    graph, generator = go.Graph(), torch.Generator().manual_seed(0)
    x = graph.add_input("x", go.TensorType.make(go.DType.FLOAT32, (5, 2, 3)))

    def constant(name, *shape):
        return graph.add_constant(torch.randn(shape, generator=generator), name)

    weights = [constant("w", 1, 16, 3), constant("r", 1, 16, 4), constant("bias", 1, 32)]
    states = [None, constant("hidden", 1, 2, 4), constant("cell", 1, 2, 4)]
    node = graph.append(go.Node("LSTM", [x, *weights, *states], {"hidden_size": 4}, 3))
    last = graph.add("Squeeze", node.outputs[1], graph.add_constant(torch.tensor([0])))
    graph.add_output(graph.add("Gemm", last, constant("v", 4, 6), constant("added", 2, 6)), "y")
    report = go.optimize(graph, "sparsify{ratio=0.5}")
    zeros = {value.name: int((value.data == 0).sum()) for value in graph.constants if value.dtype.is_float}
    assert zeros == {"w": 24, "r": 32, "bias": 0, "hidden": 0, "cell": 0, "v": 12, "added": 0}
    assert "68 of 136 weights" in report.passes[0].notes[0]


@pytest.mark.parametrize("text", [
    "ratio=1", "threshold=-1", "pattern=4of2", "pattern=half", "factor=1", "criterion=fpgm", "scope=uniform",
    'threshold=0.1,pattern="2:4"',
])  # fmt: skip
def test_bad_options(case, text):
    with pytest.raises(OptionError):
        go.optimize(case[1], f"sparsify{{{text}}}")


def test_bad_input(case):
    module, graph = case
    with pytest.raises(OptionError, match="matches no parameter"):
        go.optimize(graph, "sparsify{ignore=[layer7]}")
    with pytest.raises(PassError, match="no layer"):
        go.optimize(graph, 'sparsify{ignore=["*"]}')
    with pytest.raises(PassError, match="no weight is removed"):
        go.optimize(graph, "sparsify{threshold=0}")
    with pytest.raises(DataError, match="labels"):
        go.optimize(graph, "sparsify{criterion=taylor}", [x for x, _ in batches()])
    with torch.no_grad():
        module[7].weight[0, 0] = torch.inf
    with pytest.raises(DataError, match=r"7\.weight"):
        go.optimize(go.capture(module, (torch.randn(5, 4, 6, 6),)), "sparsify", check=False)
