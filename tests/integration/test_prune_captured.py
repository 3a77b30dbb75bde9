"""Pruning of what torch code computes from sizes, held to masked equivalence."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go


class Heads(nn.Module):
    """Four heads; `mix` computes with [batch, 4, length, 8]."""

    def __init__(self, mix):
        super().__init__()
        self.mix = mix
        self.into, self.out = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x):
        y = self.into(x).unflatten(-1, (4, 8)).transpose(1, 2)
        return self.out(self.mix(y).transpose(1, 2).flatten(2))


def expanded(y):
    return y / y.abs().amax(-1, keepdim=True).clamp_min(1e-6).expand_as(y)


def twice_expanded(y):
    return expanded(y) + torch.ones_like(y[..., :1]).expand(y.shape)


def rotated_whole(y):
    return torch.cat([y[..., :8].tanh(), y[..., 8:]], -1)


@pytest.mark.parametrize("mix", [expanded, twice_expanded, rotated_whole, F.gelu])
def test_heads(mix):
    torch.manual_seed(0)
    graph = go.capture(Heads(mix).eval(), torch.randn(2, 5, 6), dynamic={"x": {0: "n", 1: "s"}})
    report = go.optimize(graph, "prune-channels{ratio=0.5}")
    assert report.passes[0].checks["equivalence"]["max_rel"] < 1e-5
    assert go.to_torch(graph)(torch.randn(3, 7, 6)).shape == (3, 7, 3)
    assert {value.parameter.name: value.shape for value in graph.parameters}["out.weight"] == (3, 16)
