"""Sums and norms over channels that are pruned: equal to a module whose channels are cut by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import PassError
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession

KEPT = [0, 2, 3, 5, 7]
REDUCTIONS = {
    "ReduceSum": lambda y: y.sum(-1, keepdim=True),
    "ReduceL1": lambda y: y.norm(1, -1, keepdim=True),
    "ReduceL2": lambda y: y.norm(2, -1, keepdim=True),
    "ReduceSumSquare": lambda y: y.square().sum(-1, keepdim=True),
    "ReduceMean": lambda y: y.mean(-1, keepdim=True),
    "ReduceMax": lambda y: y.amax(-1, keepdim=True),
}


class Reduced(nn.Module):
    """Eight channels, three of them faint, divided by what they reduce to."""

    def __init__(self, reduction, activation):
        super().__init__()
        self.inlet, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.reduction, self.activation = reduction, activation
        with torch.no_grad():
            for faint in (1, 4, 6):
                for tensor in (self.inlet.weight[faint], self.inlet.bias[faint], self.head.weight[:, faint]):
                    tensor *= 1e-3

    def forward(self, x):
        y = self.activation(self.inlet(x))
        return self.head(y / (1 + self.reduction(y)))


@pytest.mark.parametrize("activation", [torch.relu, torch.sigmoid])  # a channel that is zero, one that is a half
@pytest.mark.parametrize("op", [name for name in REDUCTIONS if name != "ReduceMax"])
def test_a_reduction_over_pruned_channels_is_one_over_the_rest(op, activation):
    torch.manual_seed(0)
    module, x = Reduced(REDUCTIONS[op], activation).eval(), torch.randn(4, 5)
    captured = go.capture(module, (x,))
    graphs = captured, go.load(go.to_onnx(captured))
    for graph in graphs:
        report = go.optimize(graph, "prune-channels{ratio=0.4}")  # held to the masked original
        assert report.kept == {"inlet.weight": {0: KEPT}, "inlet.bias": {0: KEPT}, "head.weight": {1: KEPT}}
    with torch.no_grad():
        module.inlet.weight.data, module.inlet.bias.data = module.inlet.weight[KEPT], module.inlet.bias[KEPT]
        module.head.weight.data = module.head.weight[:, KEPT]
        want = module(x)
        for graph in graphs:
            torch.testing.assert_close(run(graph, [x])[0], want)
            np.testing.assert_allclose(OrtSession(go.to_onnx(graph)).run([x])[0], want, rtol=1e-4, atol=1e-6)


def test_the_largest_of_the_rest_is_another_function():
    graph = go.capture(Reduced(REDUCTIONS["ReduceMax"], torch.relu).eval(), (torch.randn(4, 5),))
    with pytest.raises(PassError, match="ReduceMax over this axis"):
        go.optimize(graph, "prune-channels{ratio=0.4}")
