"""Low-rank factorisation: errors as predicted, budgets kept, names that survive training."""

import pytest
import torch
from torch import nn

import graphopt as go
import graphopt.passes.substitute
from graphopt.analysis.cost import Cost
from graphopt.passes.substitute.factors import Matrix, RowsAndColumns, Tucker
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.ort import OrtSession
from tests.passes.rule_cases import Draft


def weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def composed(stages):
    """What the stages make of an impulse at every input: the weight of all of them together."""
    first, *rest = [stage.weight for stage in stages]
    for stage in rest:
        if first.dim() == 2:
            first = stage @ first
        else:
            inputs = first.transpose(0, 1)
            reach = [extent - 1 for extent in stage.shape[2:]]
            first = nn.functional.conv2d(inputs, stage.flip(2, 3), padding=reach).transpose(0, 1)
    return first


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(
    ("method", "shape"),
    [(Matrix, (6, 9)), (Matrix, (9, 4, 3, 3)), (Tucker, (8, 6, 3, 3)), (RowsAndColumns, (5, 4, 3, 5))],
)
def test_the_error_is_no_more_than_the_energy_says(method, shape, energy):
    whole = weight(*shape)
    stages = method(whole).stages(energy)
    assert [stage.plan for stage in stages] == method(whole).plans(energy)
    lost = float((composed(stages) - whole).square().sum() / whole.square().sum())
    assert lost <= 1 - energy + 1e-12
    if energy == 1:
        assert lost < 1e-24


def test_a_rank_less_keeps_less():
    whole = weight(12, 9)
    first, second = Matrix(whole).plans(0.9)
    rank = first.shape[0]
    singular = torch.linalg.svdvals(whole).square()
    assert second.shape == (12, rank)
    assert singular[:rank].sum() >= 0.9 * singular.sum() > singular[: rank - 1].sum()


def low_rank(layer, rank):
    """Makes the weight of a layer a product over `rank` numbers."""
    flat = layer.weight.data.flatten(1)
    u, s, v = torch.linalg.svd(flat, full_matrices=False)
    layer.weight.data = (u[:, :rank] * s[:rank] @ v[:rank]).reshape(layer.weight.shape)
    return layer


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        low_rank(nn.Conv2d(3, 16, 3, padding=1, stride=2), 2), nn.ReLU(), low_rank(nn.Conv2d(16, 24, 1), 3), nn.ReLU(),
        nn.Conv2d(24, 24, 3, groups=24, padding=1), nn.Flatten(1, 2), low_rank(nn.Linear(4, 32), 1), nn.Tanh(),
        low_rank(nn.Linear(32, 20, bias=False), 2),
    ).eval()  # fmt: skip


def test_layers_of_low_rank_lose_nothing_and_are_modules_again():
    module, x = network(), torch.randn(2, 3, 8, 8)
    graph = go.capture(module, (x,))
    before = Cost(graph).macs
    report = go.optimize(graph, "factorise{energy=0.999999}")
    assert Cost(graph).macs < before
    assert report.passes[0].counts["factorised"] == 4
    assert report.passes[0].details["layers"][0]["shapes"] == [[2, 3, 3, 3], [16, 2, 1, 1]]
    emitted = go.to_torch(graph)
    assert isinstance(emitted.get_submodule("0.0"), nn.Conv2d)
    assert emitted.get_submodule("0.0").stride == (2, 2)
    assert isinstance(emitted.get_submodule("6.1"), nn.Linear)
    assert {"0.0.weight", "0.1.weight", "0.1.bias", "4.weight", "8.0.weight"} <= set(emitted.state_dict())
    assert "0.weight" not in emitted.state_dict()
    torch.testing.assert_close(emitted(x), module(x), rtol=1e-3, atol=1e-3)
    emitted(x).sum().backward()
    assert emitted.get_parameter("0.0.weight").grad is not None
    session = OrtSession(go.to_onnx(graph), optimize=False)
    torch.testing.assert_close(torch.from_numpy(session.run([x])[0]), module(x), rtol=1e-3, atol=1e-3)


def random_network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 16, 1),
        nn.Flatten(1), nn.Linear(16 * 36, 64),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_a_budget_is_kept_and_used(share):
    module, x = random_network(), torch.randn(1, 8, 6, 6)
    graph = go.capture(module, (x,))
    before = Cost(graph).macs
    report = go.optimize(graph, f"factorise{{macs={share}}}")
    assert 0.8 * share <= Cost(graph).macs / before <= share
    assert "SQNR" in report.passes[0].checks["equivalence"]["summary"]


def test_more_energy_is_nearer():
    errors = []
    for energy in (0.5, 0.8, 0.95):
        module, x = random_network(), torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
        graph = go.capture(module, (x,))
        go.optimize(graph, f"factorise{{energy={energy},pays=100}}")
        errors.append(compare(run(graph, [x]), [module(x)]).max_rel)
    assert errors[0] > errors[1] > errors[2] > 0


def test_what_does_not_pay_is_left_with_a_word():
    graph = go.capture(nn.Conv2d(4, 4, 1), (torch.randn(1, 4, 3, 3),))
    report = go.optimize(graph, "factorise{energy=0.999}")
    assert not report.passes[0].modified
    assert "1 layers would need as many" in report.passes[0].notes[1]


def test_shared_grouped_and_ignored_layers_stay():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = low_rank(nn.Linear(8, 8), 1), low_rank(nn.Linear(8, 8), 1)

        def forward(self, x):
            return self.two(self.one(self.one(x)))

    graph = go.capture(Twice(), (torch.randn(2, 8),))
    report = go.optimize(graph, "factorise{ignore=[two.*]}")
    assert not report.passes[0].modified
    assert go.optimize(graph, "factorise").passes[0].counts["factorised"] == 1


@pytest.mark.parametrize("form", ["gemm", "gemm by output", "matmul", "view"])
def test_matrix_products_as_files_have_them(form):
    d = Draft()
    matrix = (weight(12, 2) @ weight(2, 10, seed=1)).float()
    x, bias = d.input("n", 12), d.weight(10)
    if form == "matmul":
        y = d.Add(d.MatMul(x, d.constant(matrix)), bias)
    elif form == "view":
        y = d.Add(d.MatMul(x, d.Transpose(d.constant(matrix.t().contiguous()), perm=[1, 0])), bias)
    elif form == "gemm":
        y = d.Gemm(x, d.constant(matrix), bias, alpha=0.5, beta=2.0)
    else:
        y = d.Gemm(x, d.constant(matrix.t().contiguous()), bias, transB=1)
    d.output(y)
    inputs = [torch.randn(3, 12)]
    want = run(d.graph, inputs)
    report = go.optimize(d.graph, "factorise{energy=0.9999999}")
    assert report.passes[0].counts["factorised"] == 1
    assert compare(run(d.graph, inputs), want).within(1e-5)


@pytest.mark.parametrize("options", ["energy=0", "energy=2", "macs=1.5", "methods=[cp]"])
def test_mistakes(options):
    graph = go.capture(nn.Linear(4, 4), (torch.randn(1, 4),))
    with pytest.raises(go.GraphoptError, match=r"lies between|share between|not a choice"):
        go.optimize(graph, f"factorise{{{options}}}")


def test_a_budget_out_of_reach_is_refused():
    graph = go.capture(nn.Conv2d(4, 4, 1), (torch.randn(1, 4, 3, 3),))
    text = str(graph)
    with pytest.raises(go.GraphoptError, match="still need"):
        go.optimize(graph, "factorise{macs=0.1}")
    assert str(graph) == text
