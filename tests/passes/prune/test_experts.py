"""Experts: whole ones behind a router, and their width; held to a module whose stacks are cut by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.errors import PassError
from graphopt.passes.prune.kinds import kinds_of
from graphopt.runtime import run
from graphopt.runtime.calls import call_flat
from graphopt.runtime.ort import OrtSession

FAINT = [1, 4]
KEPT = [0, 2, 3, 5]
NAMES = ("router.weight", "router.bias", "up", "down")


class Stack(nn.Module):
    """Six experts as stacks of weights; `route` says how their results are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.router, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(8, 3)
        self.up, self.down = nn.Parameter(torch.randn(6, 8, 12)), nn.Parameter(torch.randn(6, 12, 8))
        with torch.no_grad():
            for name in NAMES:
                self.get_parameter(name)[FAINT] *= 1e-3

    def forward(self, x):
        x = self.inlet(x)
        return self.head(x + self.route(x, self.router(x)))


class Soft(Stack):
    def route(self, x, scores):
        hidden = torch.relu(x.unsqueeze(-3) @ self.up) @ self.down
        return (hidden * torch.softmax(scores, -1).transpose(-1, -2).unsqueeze(-1)).sum(-3)


class SoftEinsum(Stack):
    def route(self, x, scores):
        hidden = F.gelu(torch.einsum("btd,edf->btef", x, self.up))
        return torch.einsum("btef,efd,bte->btd", hidden, self.down, scores.softmax(-1))


class TopK(Stack):
    """As Mixtral: a softmax over all, the best two of them, their shares made to sum to one."""

    def route(self, x, scores):
        shares, chosen = scores.softmax(-1).topk(2)
        hidden = torch.relu(x[:, :, None, None] @ self.up[chosen]) @ self.down[chosen]
        return (hidden.squeeze(-2) * (shares / shares.sum(-1, keepdim=True))[..., None]).sum(-2)


class TopKFirst(Stack):
    """As GPT-OSS: the best two, then a softmax over these."""

    def route(self, x, scores):
        best, chosen = scores.topk(2)
        hidden = torch.relu(x[:, :, None, None] @ self.up[chosen]) @ self.down[chosen]
        return (hidden.squeeze(-2) * best.softmax(-1)[..., None]).sum(-2)


class Switch(Stack):
    """The best one alone, its share read by position."""

    def route(self, x, scores):
        shares = scores.softmax(-1)
        chosen = shares.argmax(-1)
        hidden = torch.relu(x[:, :, None] @ self.up[chosen]) @ self.down[chosen]
        return hidden.squeeze(-2) * shares.gather(-1, chosen[..., None])


class Dispatched(Stack):
    """All experts on all inputs, those that are not chosen times zero."""

    def route(self, x, scores):
        shares, chosen = scores.softmax(-1).topk(2)
        gates = (F.one_hot(chosen, 6) * shares[..., None]).sum(-2)
        hidden = torch.einsum("btef,efd->bted", torch.relu(torch.einsum("btd,edf->btef", x, self.up)), self.down)
        return (hidden * gates[..., None]).sum(-2)


class Scattered(Stack):
    """The same, with shares written to their places."""

    def route(self, x, scores):
        shares, chosen = scores.softmax(-1).topk(2)
        gates = torch.zeros_like(scores).scatter(-1, chosen, shares)
        hidden = torch.einsum("btef,efd->bted", torch.relu(torch.einsum("btd,edf->btef", x, self.up)), self.down)
        return (hidden * gates[..., None]).sum(-2)


ROUTES = (Soft, SoftEinsum, TopK, TopKFirst, Switch, Dispatched, Scattered)


def roads(module):
    """The module, captured, and loaded from the file that this gives."""
    graph = go.capture(module.eval(), (torch.randn(2, 4, 5),))
    return graph, go.load(go.to_onnx(graph))


def small(module):
    """The module with the faint experts cut out by hand."""
    with torch.no_grad():
        for name in NAMES:
            tensor = module.get_parameter(name)
            tensor.data = tensor.data[KEPT]
    return module


@pytest.mark.parametrize("route", ROUTES)
def test_whole_experts_go_with_the_rows_of_their_router(route):
    torch.manual_seed(0)
    module, x = route(), torch.randn(2, 4, 5)
    graphs = roads(module)
    want = None
    for graph in graphs:
        report = go.optimize(graph, "prune-channels{ratio=0.34,kinds=[experts]}")  # held to the masked original
        kept = {name: dims for name, dims in report.kept.items() if name in dict(module.named_parameters())}
        assert kept == {name: {0: KEPT} for name in NAMES}
        if want is None and route is not Dispatched:  # its code states how many experts there are
            want = small(module)(x)
        got = run(graph, [x])[0]
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        there = OrtSession(go.to_onnx(graph)).run([x])[0]
        np.testing.assert_allclose(there, got.detach(), rtol=1e-3, atol=1e-5)
    trained = go.to_torch(graphs[0])
    call_flat(trained, graphs[0], [x])[0].square().sum().backward()
    assert all(each.grad is not None and bool(each.grad.isfinite().all()) for each in trained.parameters())


@pytest.mark.parametrize("route", ROUTES)
def test_width_inside_experts(route):
    kept = []
    torch.manual_seed(0)
    for graph in roads(route()):
        report = go.optimize(graph, "prune-channels{ratio=0.5,kinds=[ffn],ignore=inlet.*}")
        assert {row["kind"] for row in report.passes[0].details["groups"]} == {"ffn"}
        assert {name: {dim: len(each) for dim, each in dims.items()} for name, dims in report.kept.items()} == {
            "up": {2: 6}, "down": {1: 6},
        }  # fmt: skip
        kept.append(report.kept)
    assert kept[0] == kept[1]


def test_as_many_stay_as_are_chosen():
    graph = roads(TopK())[0]
    report = go.optimize(graph, "prune-channels{ratio=0.9,kinds=[experts]}")
    assert len(report.kept["up"][0]) == 2
    with pytest.raises(PassError, match="removes nothing"):
        go.optimize(graph, "prune-channels{ratio=0.9,kinds=[experts]}")


class Counted(Stack):
    """Computes with the numbers of experts, so they must not change."""

    def route(self, x, scores):
        chosen = scores.topk(2)[1]
        hidden = x[:, :, None, None] @ self.up[(chosen + 1) % 6] @ self.down[chosen]
        return hidden.squeeze(-2).sum(-2)


class Shown(Stack):
    """Says which experts it has chosen."""

    def forward(self, x):
        x = self.inlet(x)
        chosen = self.router(x).topk(2)[1]
        return self.head((x[:, :, None, None] @ self.up[chosen] @ self.down[chosen]).squeeze(-2).sum(-2)), chosen


class Compared(Stack):
    """Finds the inputs of an expert by comparing with its number."""

    def route(self, x, scores):
        shares, chosen = scores.topk(1)
        gate = (chosen == 2).float() * shares
        return gate * (x @ self.up[2] @ self.down[2])


@pytest.mark.parametrize(("route", "reason"), [
    (Counted, "computes with the numbers of what was chosen"), (Shown, "graph output"),
    (Compared, "computes with the numbers of what was chosen"),
])  # fmt: skip
def test_what_computes_with_numbers_of_experts_keeps_them(route, reason):
    graph = roads(route())[0]
    report = go.optimize(graph, "prune-channels{ratio=0.5}")
    assert 0 not in report.kept["router.weight"]
    assert any(reason in each for each in report.passes[0].details["frozen"])


def test_a_softmax_over_positions_keeps_them():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.latents, self.q, self.k, self.v = nn.Parameter(torch.randn(6, 8)), *(nn.Linear(8, 8) for _ in "qkv")
            self.inlet, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.inlet(x)
            found = torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x)
            return self.head(torch.softmax(self.q(found) @ found.mT, -1) @ found)

    coupling = ChannelCoupling(roads(Attention())[0])
    assert "experts" not in kinds_of(coupling, coupling.groups)
