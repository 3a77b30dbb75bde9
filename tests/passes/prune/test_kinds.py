"""Each kind of group alone, captured and loaded from ONNX: experts, heads, head dimensions, FFN, embedding, units."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.models import build
from graphopt.passes.prune.kinds import kinds_of
from graphopt.runtime import run
from tests.zoo import captured


@pytest.mark.parametrize(("name", "kind"), [
    ("vit", "heads"), ("vit", "head-dim"), ("vit", "ffn"), ("gpt", "embedding"), ("lstm_tagger", "hidden"),
    ("resnext", "groups"),
])  # fmt: skip
def test_captured_and_loaded_lose_the_same(name, kind):
    module, _ = build(name)
    first = captured(name)
    loaded = go.load(go.to_onnx(first))
    kept = []
    for graph in (first, loaded):
        report = go.optimize(graph, f"prune-channels{{ratio=0.5,kinds=[{kind}]}}")  # held to masked equivalence
        assert {row["kind"] for row in report.passes[0].details["groups"]} == {kind}
        kept.append({name: dims for name, dims in report.kept.items() if name in module.state_dict()})
    assert kept[0] == kept[1] != {}


class Experts(nn.Module):
    """Stacked experts behind independent gates."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.router, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(8, 3)
        self.up, self.down = nn.Parameter(torch.randn(6, 8, 12)), nn.Parameter(torch.randn(6, 12, 8))

    def forward(self, x):
        x = self.inlet(x)
        gate = torch.sigmoid(self.router(x))
        hidden = torch.relu(x.unsqueeze(-3) @ self.up) @ self.down
        return self.head((hidden * gate.transpose(-1, -2).unsqueeze(-1)).sum(-3))


@pytest.mark.parametrize("onnx", [False, True])
def test_whole_experts(onnx):
    module = Experts().eval()
    with torch.no_grad():
        module.up[[1, 4]] *= 1e-3
        module.down[[1, 4]] *= 1e-3
    graph = go.capture(module, (torch.randn(2, 4, 5),))
    if onnx:
        graph = go.load(go.to_onnx(graph))
    report = go.optimize(graph, "prune-channels{ratio=0.34,kinds=[experts]}")
    kept = [0, 2, 3, 5]
    assert report.kept == {name: {0: kept} for name in ("router.weight", "router.bias", "up", "down")}
    with torch.no_grad():
        for name in report.kept:
            owner, _, own = name.rpartition(".")
            tensor = getattr(module.get_submodule(owner), own)
            tensor.data = tensor.data[kept]
        x = torch.randn(2, 4, 5)
        torch.testing.assert_close(run(graph, [x])[0], module(x))


@pytest.mark.parametrize("fused", [False, True])
def test_what_attention_passes_on_is_a_head_dimension(fused):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

        def forward(self, x):
            q, k, v = (each(x).unflatten(-1, (4, 4)).transpose(1, 2) for each in (self.q, self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v) if fused else torch.softmax(q @ k.mT, -1) @ v
            return self.o(y.transpose(1, 2).flatten(2))

    coupling = ChannelCoupling(go.capture(Attention().eval(), (torch.randn(2, 6, 16),)))
    found = {
        coupling.name_of(g): kind for g, kind in zip(coupling.groups, kinds_of(coupling, coupling.groups), strict=True)
    }
    assert sorted(found.values()) == ["head-dim", "head-dim", "heads"]
