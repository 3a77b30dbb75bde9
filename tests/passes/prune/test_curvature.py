"""The Hessian's diagonal, estimated side by side or one by one."""

import pytest
import torch

from graphopt.passes.prune.criteria import curvature
from graphopt.passes.prune.criteria.curvature import diagonal


class Squares(torch.autograd.Function):
    """w^2, whose second derivative looks at numbers, which vmap refuses."""

    calls = 0

    @staticmethod
    def forward(ctx, w):
        ctx.save_for_backward(w)
        return w.square()

    @staticmethod
    def backward(ctx, grad):
        return _Twice.apply(ctx.saved_tensors[0], grad)


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, grad):
        ctx.save_for_backward(grad)
        return 2 * w * grad

    @staticmethod
    def backward(ctx, outer):
        assert bool(outer.isfinite().all())
        Squares.calls += 1
        return 2 * ctx.saved_tensors[0] * outer, None


@pytest.mark.parametrize("probes", [1, 8, 11])
@pytest.mark.parametrize("vectorised", [True, False])
def test_exact_where_the_hessian_is_diagonal(vectorised, probes):
    w, other = torch.randn(5, requires_grad=True), torch.randn(2, requires_grad=True)
    scale = torch.arange(5.0)
    Squares.calls = 0
    loss = (scale * (w.square() if vectorised else Squares.apply(w))).sum()
    found, absent = diagonal(loss, [w, other], probes, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, 2 * scale)
    assert absent is None
    assert Squares.calls == (0 if vectorised else probes)


def test_how_many_go_side_by_side_changes_nothing(monkeypatch):
    w = torch.randn(6, requires_grad=True)
    loss = torch.tanh(w @ torch.randn(6, 6) @ w)
    found = []
    for width in (1, 2, 16):
        monkeypatch.setattr(curvature, "SIDE_BY_SIDE", width)
        (line,) = diagonal(loss, [w], 4, torch.Generator().manual_seed(1))
        found.append(line)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
