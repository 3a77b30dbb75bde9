"""A network, and passes that fail on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import graphopt as go


class WrongSum(go.Rule):
    """A rule that is wrong for one node in many: Relu(x) + Sigmoid(y) becomes Relu(x)."""

    def pattern(self, op, x, y):
        return op.Add(op.Relu(x), op.Sigmoid(y))

    def rewrite(self, op, m):
        return op.Relu(m["x"])


@go.register("test-wrong-sum")
@dataclass(frozen=True)
class WrongSumPass(go.RewritePass):
    """Wrong."""

    rules: ClassVar = (WrongSum,)


@go.register("test-crash-behind-gemm")
@dataclass(frozen=True)
class Crash(go.Pass):
    """Fails where a Tanh stands behind a Gemm."""

    def run(self, graph, context):
        for node in graph.walk():
            if node.op == "Tanh" and node.operand(0).producer is not None and node.operand(0).producer.op == "Gemm":
                raise IndexError(f"at {node.name}")
        return False


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.LayerNorm(6)) for _ in range(8)])
        self.left, self.right, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.layers(x)
        y = torch.relu(self.left(x)) + torch.sigmoid(self.right(x))
        return torch.softmax(torch.tanh(self.last(y)), 1), x.mean()


def network():
    torch.manual_seed(0)
    return go.capture(Net().eval(), (torch.randn(3, 6),), dynamic=[{0: "batch"}])
