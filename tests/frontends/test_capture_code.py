"""Capture: in-place code, control flow, operators without a converter."""

import pytest
import torch
from torch import nn

from graphopt.errors import CaptureError
from graphopt.frontends.capture import capture
from graphopt.ops import execute
from graphopt.runtime.executor import run
from tests.frontends.oracle import Wrap, check, compare

torch.manual_seed(0)
X = torch.randn(4, 6)
TORCH_2_6 = torch.__version__.startswith("2.6.")


# -- in-place code


def _partly(x):
    y = torch.zeros(x.shape[0], 6)
    y[:, 0] = x[:, 1]
    y[:, 2:4] = x[:, 2:4] * 2
    y[:, ::5] += 1
    y[0] = 7
    y[-1] -= 1
    return y


def _through_views(x):
    y = x.clone()
    v = y.view(-1, 2, 3)
    v[:, 0].mul_(2)
    y.t()[1].add_(5)
    w = v.transpose(1, 2)
    w[:, 0, 1].zero_()
    y.unsqueeze(0).squeeze(0).narrow(1, 4, 2).fill_(3)
    return y, v, w


def _pieces(x):
    y = x * 1
    a, b = y.chunk(2, 1)
    a.add_(1)
    for row in b.unbind(1):
        row.mul_(row)
    first, _ = y.split([2, 4], 1)
    first.neg_()
    return y, a, b


def _later_reads(x):
    y = x + 1
    z = y * 2
    y.relu_()
    y += z
    return y, z, y.sin_().cos()


def _masks(x):
    y = x.clone()
    y[y > 0] = 0.5
    y[:, [1, 3]] = 9
    y.masked_fill_(y < -1, -1).clamp_(max=2)
    y.index_put_((torch.tensor([0]), torch.tensor([5])), torch.tensor(4.0))
    y.scatter_(1, torch.zeros(x.shape[0], 1, dtype=torch.long), 8.0)
    return y


@pytest.mark.parametrize("function", [_partly, _through_views, _pieces, _later_reads, _masks])
def test_in_place_code(function):
    if function is _masks:
        check(lambda x: function(x), X, batch=None)
    else:
        check(function, X[:3])


def test_in_place_activations():
    layers = nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.SiLU(inplace=True)
    check(nn.Sequential(nn.Conv2d(3, 4, 3), *layers), torch.randn(2, 3, 5, 5))


def test_in_place_through_an_expanded_view_is_refused():
    def write(x):
        y = x[:, :1].clone()
        y.expand(-1, 6)[:, :1].add_(1)
        return y

    with pytest.raises(CaptureError, match=r"writing in place through aten\.expand"):
        capture(Wrap(write), (X,))


# -- control flow


def test_regions_without_gradient():
    @torch.no_grad()
    def inner(x):
        return x.sin() * 2

    check(lambda x: inner(x) + x, X)


def _branches(x):
    return torch.cond(x.sum() > 0, lambda x: (x + 1, x.sum(1)), lambda x: (x - 1, x.mean(1)), (x,))


def test_branches():
    graph = check(_branches, X)
    [branch] = [node for node in graph if node.op == "If"]
    assert {name: len(body) for name, body in branch.attributes.items()} == {"then_branch": 2, "else_branch": 2}
    for sign in (1, -1):
        compare(graph, Wrap(_branches), (X.abs() * sign,))


def test_branches_with_parameters():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return torch.cond(x.sum() > 0, self.a, self.b, (x,))

    module = Module()
    graph = capture(module, (X,), dynamic={"x": {0: "n"}})
    graph.verify()
    assert {value.parameter.name for value in graph.parameters} == set(module.state_dict())
    for sign in (1, -1):
        compare(graph, module, (X.abs() * sign,))


@pytest.mark.skipif(TORCH_2_6, reason="torch 2.6 traces while_loop with dynamo only")
def test_loops():
    from torch._higher_order_ops.while_loop import while_loop

    def count(x):
        return while_loop(lambda i, x: i < 4, lambda i, x: (i + 1, x * 2 + i), (torch.tensor(0), x))

    graph = capture(Wrap(count), (X,))
    graph.verify()
    compare(graph, Wrap(count), (X,))


def test_autocast():
    class Off(nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", enabled=False):
                return x.sin() @ x.T

    class On(nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return x @ x.T

    check(Off(), X)
    with pytest.raises(CaptureError, match="forward turns autocast on"):
        capture(On(), (X,))


def test_random_numbers():
    def sample(x):
        return torch.randn_like(x), torch.rand(x.shape[0], 3), torch.rand_like(x), torch.randn(2, 2), torch.bernoulli(x)

    graph = capture(Wrap(sample), (torch.full((1, 2000), 0.5),), dynamic={"args": [{0: "n"}]})
    graph.verify()
    normal, uniform, like, fixed, coins = results = run(graph, [torch.full((2, 2000), 0.5)])
    assert [tuple(t.shape) for t in results] == [(2, 2000), (2, 3), (2, 2000), (2, 2), (2, 2000)]
    assert abs(normal.mean()) < 0.1
    assert abs(normal.std() - 1) < 0.1
    assert 0 <= like.min() < 0.1 < 0.9 < like.max() <= 1
    assert uniform.max() <= 1
    assert fixed.dtype == torch.float32
    assert set(coins.unique().tolist()) == {0.0, 1.0}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reparametrised_layers():
    from torch.nn.utils import parametrizations

    check(parametrizations.weight_norm(nn.Linear(6, 3)), X)
    check(parametrizations.spectral_norm(nn.Linear(6, 3)), X)
    if TORCH_2_6:  # which lets no attribute be set while it traces, and says so
        with pytest.raises(CaptureError, match=r"self\.weight was assigned during export"):
            capture(torch.nn.utils.weight_norm(nn.Conv1d(4, 3, 3)), (torch.randn(2, 4, 6),))
        return
    check(torch.nn.utils.weight_norm(nn.Conv1d(4, 3, 3)), torch.randn(2, 4, 6))


def test_checkpointed_layers():
    from torch.utils.checkpoint import checkpoint

    check(lambda x: checkpoint(torch.sin, x, use_reentrant=False) * 2, X)


# -- what has no converter


def test_decomposed_operators():
    check(lambda x: torch.nn.functional.huber_loss(x, x * 2) + torch.special.xlog1py(x.abs(), x.abs()), X)
    check(lambda x: torch.nn.functional.cross_entropy(x, x.argmax(1)), X)


def test_decomposition_keeps_the_origin():
    graph = capture(Wrap(lambda x: nn.functional.huber_loss(x, x * 2)), (X,))
    assert len(graph) > 3
    assert all(node.origin.sources == ("huber_loss",) for node in list(graph)[1:])


def test_carried_operators():
    graph = check(
        lambda x: torch.cummax(x, 1).values + torch.mode(x, dim=1, keepdim=True)[0],
        X,
        carried=["cummax", "mode"],
    )
    node = next(node for node in graph if node.domain == "aten")
    assert node.overload == "default"
    assert node.attributes["args"] == '{"args": [{"operand": 0}, 1], "kwargs": {}}'
    [values, indices] = execute(node, [X])
    torch.testing.assert_close((values, indices), tuple(torch.cummax(X, 1)))


def test_results_that_no_node_can_have():
    with pytest.raises(CaptureError, match="gives lists of tensors among its results"):
        capture(Wrap(lambda x: torch.histogramdd(x, [2, 2]).hist), (torch.randn(5, 2),))


def test_carried_operator_with_a_size():
    graph = check(lambda x: (x + 1).as_strided((x.shape[0], 3), (6, 1)), X, carried=["as_strided"])
    [node] = [node for node in graph if node.domain == "aten"]
    assert '{"size": 1}' in node.attributes["args"]
