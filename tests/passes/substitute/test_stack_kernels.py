"""Large kernels as columns and rows, or as stacks of 3x3 ones."""

import pytest
import torch
from torch import nn

import graphopt as go
import graphopt.passes.substitute
from graphopt.analysis.cost import Cost
from graphopt.passes.substitute.stacks import compose, stacked


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def optimised(module, x, options=""):
    graph = go.capture(module, (x,))
    before = Cost(graph).macs
    report = go.optimize(graph, f"stack-kernels{options}")
    return graph, report.passes[0], Cost(graph).macs / before


@pytest.mark.parametrize("group", [1, 3])
def test_composition_is_one_convolution_after_the_other(group):
    first, second = normal(3, 3 // group, 3, 3), normal(3, 3 // group, 5, 5, seed=1)
    x = normal(2, 3, 9, 9, seed=2)
    want = nn.functional.conv2d(nn.functional.conv2d(x, first, groups=group), second, groups=group)
    got = nn.functional.conv2d(x, compose(first, second, group), groups=group)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("group", "extent"), [(1, 5), (4, 5), (4, 7)])
def test_a_kernel_that_is_a_stack_is_found(group, extent):
    whole = normal(4, 4 // group, 3, 3)
    for seed in range(1, (extent - 1) // 2):
        whole = compose(whole, normal(4, 4 // group, 3, 3, seed=seed), group)
    stages, error = stacked(whole, group)
    assert [stage.shape[-1] for stage in stages] == [3] * ((extent - 1) // 2)
    assert error < 0.1
    _, other = stacked(normal(4, 4 // group, extent, extent, seed=9), group)
    assert other > 0.2


def blur(channels, extent, groups, rank=1, **options):
    conv = nn.Conv2d(channels, channels, extent, groups=groups, padding=extent // 2, **options)
    parts = [normal(channels, channels // groups, extent, 1, seed=i) for i in range(rank)]
    rows = [normal(channels, 1, 1, extent, seed=i + 9) for i in range(rank)]
    conv.weight.data = sum(a * b for a, b in zip(parts, rows, strict=True)).float()
    return conv


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"bias": False}])
def test_separable_kernels_are_separated_exactly(options):
    module, x = blur(6, 7, 6, **options), torch.randn(2, 6, 11, 12)
    graph, entry, share = optimised(module, x)
    assert entry.counts == {"separated": 1, "stacked": 0}
    assert share < 0.5
    assert [list(node.operand(1).shape) for node in graph] == [[6, 1, 7, 1], [6, 1, 1, 7]]
    torch.testing.assert_close(go.to_torch(graph)(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"dilation": 2, "padding": 3}, {"stride": 2}])
def test_stacks_are_as_near_at_the_border_as_inside(options):
    torch.manual_seed(0)
    module = nn.Conv2d(4, 4, 5, **{"padding": 2, "groups": 4, **options})
    module.weight.data = compose(normal(4, 1, 3, 3), normal(4, 1, 3, 3, seed=1), 4).float()
    x = torch.randn(2, 4, 13, 12)
    graph, entry, _ = optimised(module, x, "{error=0.2,pays=10}")
    assert entry.counts["stacked"] == 1
    error = entry.details["layers"][0]["error"]
    got, want = go.to_torch(graph)(x), module(x)
    assert got.shape == want.shape
    assert float((got - want).detach().norm() / want.detach().norm()) < 3 * error + 1e-5
    assert len(list(graph)) == 2


def test_kernels_that_are_no_stack_stay():
    graph, entry, share = optimised(nn.Conv2d(4, 4, 5, padding=2, groups=4), torch.randn(1, 4, 9, 9))
    assert not entry.modified
    assert share == 1
    assert "is left: the nearest stack is off by 0." in entry.notes[0]
    assert len(list(graph)) == 1


def test_small_even_and_grouped_kernels_are_not_looked_at():
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 6), nn.Conv2d(4, 4, 5, groups=2))
    _, entry, _ = optimised(module, torch.randn(1, 4, 20, 20))
    assert not entry.modified
    assert not entry.notes
