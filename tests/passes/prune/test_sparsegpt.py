"""SparseGPT against the update of each column written out, against least squares, and against magnitude alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError, PassError
from graphopt.models import build
from graphopt.passes.prune.masks import keep_highest, keep_pattern
from graphopt.passes.prune.sparsegpt import ByPattern, ByRatio, grams, prune_matrix, sources
from graphopt.pipeline import Batch
from graphopt.runtime import run
from tests.zoo import captured

DOUBLE = torch.float64


def inputs(rows=200, width=24):
    """Correlated inputs of different size: where they are not, nothing can be made up for."""
    mix = torch.randn(width, width, dtype=DOUBLE) + 2 * torch.eye(width, dtype=DOUBLE)
    return torch.randn(rows, width, dtype=DOUBLE) @ mix * torch.linspace(0.2, 3, width, dtype=DOUBLE)


def brute_force(w, gram, choose, damping=0.01):
    """Optimal Brain Surgeon column by column, the remaining columns' inverse found anew for each."""
    w, keep = w.clone(), torch.ones_like(w, dtype=torch.bool)
    h = gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=DOUBLE)
    for column in range(w.shape[1]):
        if column % choose.span == 0:
            stop = min(column + choose.span, w.shape[1])
            scores = [w[:, c].square() / torch.linalg.inv(h[c:, c:])[0, 0] for c in range(column, stop)]
            keep[:, column:stop] = choose(torch.stack(scores, 1), column)
        inverse = torch.linalg.inv(h[column:, column:])
        for row in range(len(w)):
            if not keep[row, column]:
                w[row, column:] -= w[row, column] / inverse[0, 0] * inverse[0]
    return torch.where(keep, w, 0.0), keep


@pytest.mark.parametrize("choose", [ByRatio(0.5), ByRatio(0.7, span=8), ByPattern(2, 4), ByPattern(1, 3)])
def test_is_the_surgeon_column_by_column(choose):
    x, w = inputs(), torch.randn(7, 24, dtype=DOUBLE)
    gram = x.T @ x
    got, kept = prune_matrix(w, gram, choose)
    want, keep = brute_force(w, gram, choose)
    assert torch.equal(kept, keep)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_blocks_change_nothing_but_the_mask(monkeypatch):
    from graphopt.passes.prune import sparsegpt

    x, w = inputs(), torch.randn(7, 24, dtype=DOUBLE)
    whole = prune_matrix(w, x.T @ x, ByPattern(2, 4))
    monkeypatch.setattr(sparsegpt, "BLOCK", 8)
    for a, b in zip(prune_matrix(w, x.T @ x, ByPattern(2, 4)), whole, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_lies_between_magnitude_and_least_squares(pattern):
    x, w = inputs(), torch.randn(16, 24, dtype=DOUBLE)
    got, keep = prune_matrix(w, x.T @ x, ByRatio(0.5) if pattern is None else ByPattern(*pattern))
    scores = w.abs()
    mask = keep_highest(scores, scores.numel() // 2) if pattern is None else keep_pattern(scores, 1, *pattern)
    best = torch.zeros_like(w)  # no weights under the same mask come closer than these
    for row in range(len(w)):
        best[row, keep[row]] = torch.linalg.lstsq(x[:, keep[row]], (x @ w[row])[:, None]).solution[:, 0]

    def error(matrix):
        return float((x @ (matrix - w).T).square().sum())

    assert int((~keep).sum()) == w.numel() // 2
    assert error(best) <= error(got) < error(w * keep)
    assert error(got) < 0.75 * error(w * mask)


def test_inputs_that_are_always_zero():
    x = inputs()
    x[:, 5] = 0
    got, _ = prune_matrix(torch.randn(4, 24, dtype=DOUBLE), x.T @ x, ByRatio(0.25))
    assert (got[:, 5] == 0).all()
    assert got.isfinite().all()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 16)
        self.a, self.b, self.c = nn.Linear(16, 32), nn.Linear(32, 32, bias=False), nn.Linear(32, 16)

    def forward(self, tokens):
        x = self.table(tokens)
        x = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        return x @ self.table.weight.T


def network():
    torch.manual_seed(5)
    module = Net().eval()
    data = [torch.randint(0, 10, (8, 12)) for _ in range(3)]
    return module, go.capture(module, (data[0],)), data


def test_grams_are_those_of_the_modules_inputs():
    module, graph, data = network()
    weight = {v.name: v for v in graph.constants}["b.weight"]
    dim, (source,) = sources(weight)
    with torch.no_grad():
        seen = torch.cat([torch.relu(module.a(module.table(each))).reshape(-1, 32) for each in data])
    (gram,) = grams(graph, [Batch((each,)) for each in data], [source]).values()
    assert dim == 1
    torch.testing.assert_close(gram, seen.T @ seen, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", ["ratio=0.6", "pattern=2of4"])
@pytest.mark.parametrize("onnx", [False, True])
def test_the_pass_comes_closer_than_magnitude(options, onnx, tmp_path):
    _, graph, data = network()
    if onnx:
        go.save(graph, tmp_path / "model.onnx")
        graph = go.load(tmp_path / "model.onnx")
    before = [run(graph, [each])[0] for each in data]
    errors, sparsity = {}, {}
    for method in ("mask", "sparsegpt"):
        twin = graph.clone()
        # The table is read by Gather too, so it is no business of SparseGPT's; magnitude is not to touch it either.
        report = go.optimize(twin, f"sparsify{{{options},method={method},ignore=[table]}}", data)
        errors[method] = sum(float(F.mse_loss(run(twin, [x])[0], y)) for x, y in zip(data, before, strict=True))
        sparsity[method] = report.passes[0].counts["weights"]
    assert errors["sparsegpt"] < 0.7 * errors["mask"]
    assert sparsity["sparsegpt"] == pytest.approx(sparsity["mask"], abs=3)


def test_what_is_left_alone_is_named_and_zeros_are_held():
    _, graph, data = network()
    report = go.optimize(
        graph, "sparsify{method=sparsegpt,ratio=0.5},finetune{epochs=1,lr=0.01}",
        [(each, each) for each in data], loss=lambda output, labels: output.square().mean(),
    )  # fmt: skip
    assert "left alone, being no matrix of linear layers only: table.weight" in report.passes[0].notes
    for value in graph.constants:
        if value.name in ("a.weight", "b.weight", "c.weight"):
            assert float((value.data == 0).double().mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["vit", "gpt", "mlp_mixer"])
def test_zoo(name):
    module, args = build(name)
    graph = captured(name)
    report = go.optimize(graph, "sparsify{method=sparsegpt,ratio=0.5}", [tuple(args)])
    table = report.passes[0].details["weights"]
    tied = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    linear = {
        f"{path}.weight"
        for path, layer in module.named_modules()
        if type(layer) is nn.Linear and id(layer.weight) not in tied
    }
    assert linear <= {row["weight"] for row in table}
    assert all(row["removed"] / row["elements"] == pytest.approx(0.5, abs=0.01) for row in table)


def test_bad_input():
    _, graph, data = network()
    for text in ("threshold=0.1", "scope=global", "criterion=l2", "factor=0.1"):
        with pytest.raises(OptionError):
            go.optimize(graph, f"sparsify{{method=sparsegpt,{text}}}", data)
    with pytest.raises(DataError, match="data"):
        go.optimize(graph, "sparsify{method=sparsegpt}")
    with pytest.raises(PassError, match="no weight is removed") as caught:
        go.optimize(graph, "sparsify{method=sparsegpt,ignore=[a,b,c]}", data)
    assert "left alone" in caught.value.hint
    with pytest.raises(PassError, match="no weight is removed") as caught:
        go.optimize(graph, "sparsify{method=sparsegpt,pattern=4of12}", data)
    assert caught.value.hint.count("no inputs that divide by 4of12") == 3
