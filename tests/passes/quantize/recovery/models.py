"""Models whose channels have ranges far apart, and data for them."""

from __future__ import annotations

import torch
from torch import nn

import graphopt as go


class Uneven(nn.Module):
    """Expand, depthwise, project, with channels between them scaled apart without changing the function.

    Args:
        spread: the largest channel of the tensor between two layers is this many times the smallest.
    """

    def __init__(self, spread: float = 1.0) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 5)
        factors = torch.logspace(0, 1, 16, spread)
        with torch.no_grad():
            self.expand.weight *= factors.reshape(-1, 1, 1, 1)
            self.expand.bias *= factors
            self.depthwise.weight /= factors.reshape(-1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.expand(x))
        x = self.project(torch.relu(self.depthwise(x)))
        return self.head(x.mean((2, 3)))


def uneven(spread: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    return Uneven(spread).eval()


def images(count: int, first: int = 0) -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(first)
    return [(torch.randn(4, 3, 12, 12, generator=generator),) for _ in range(count)]


def graph_of(module: nn.Module, data: list[tuple[torch.Tensor, ...]]) -> go.Graph:
    graph = go.capture(module, data[0])
    go.optimize(graph, "simplify,fuse")
    return graph
