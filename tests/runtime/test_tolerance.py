"""How far apart results may be: by the coarsest type that a graph computes in."""

import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import EquivalenceError
from graphopt.runtime.tolerance import tolerance_of


def network(dtype):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)]
    module = nn.Sequential(*layers).eval()
    for layer in (module[1], module[4]):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.running_var, 0.2, 2.0)
    return go.capture(module.to(dtype), (torch.randn(2, 3, 9, 9, dtype=dtype),))


@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [(torch.float32, 1e-4), (torch.float64, 1e-4), (torch.float16, 2**-7), (torch.bfloat16, 2**-4)],
)
def test_networks_of_every_type_are_fused(dtype, allowed):
    graph = network(dtype)
    assert tolerance_of(graph) == allowed
    report = go.optimize(graph, "simplify,fuse")
    assert [node.op for node in graph] == ["Conv", "Relu", "Conv"]
    found = [each.checks["equivalence"]["max_rel"] for each in report.passes if "equivalence" in each.checks]
    assert max(found) <= allowed
    if dtype is torch.float16:
        assert max(found) > 1e-4  # what the bound of float32 would refuse


def test_a_bound_of_ones_own_holds_for_every_type():
    graph = network(torch.float16)
    with pytest.raises(EquivalenceError, match=r"tolerance 1e-06"):
        go.optimize(graph, "fuse", tolerance=1e-6)


def test_half_precision_in_a_body_counts_and_constants_do_not():
    class Branch(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda y: (y.half() * 2).float(), lambda y: y + 1, (x,))

    assert tolerance_of(go.capture(Branch(), (torch.randn(3),))) == 2**-7

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.ones(3, dtype=torch.float16))

        def forward(self, x):
            return x * 2, self.table

    assert tolerance_of(go.capture(Table(), (torch.randn(3),))) == 1e-4
