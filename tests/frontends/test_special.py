"""Torch operators that ONNX has no counterpart for, made of others."""

import pytest
import torch

from graphopt.frontends.capture import capture
from graphopt.runtime import run
from tests.frontends.oracle import check, module_of

X = torch.randn(3, 4, 5)
CORNERS = torch.tensor([0.0, -0.0, 1.0, -1.0, 3.0, -3.0, float("inf"), float("-inf"), 1e-30, -1e30])


def test_angles():
    check(torch.atan2, X, X.flip(0) + 0.3, batch=(0, 1))
    y, x = (each.reshape(-1) for each in torch.meshgrid(CORNERS, CORNERS, indexing="ij"))
    (got,) = run(capture(module_of(torch.atan2), (y, x)), [y, x])
    torch.testing.assert_close(got, torch.atan2(y, x), equal_nan=True)
    assert torch.equal(torch.signbit(got), torch.signbit(torch.atan2(y, x)))
    check(lambda n: torch.atan2(n, n + 1), torch.tensor([[1, -2, 3], [0, -1, 5]]))


def test_signs():
    check(torch.signbit, CORNERS[None])
    check(torch.signbit, torch.tensor([[0, -1, 2]]))
    check(torch.copysign, CORNERS[None], CORNERS.flip(0)[None], batch=(0, 1))
    check(lambda x: torch.copysign(x, -2.0), X)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [1, -1])
def test_order_statistics(dim, keepdim):
    check(lambda x: torch.kthvalue(x, 2, dim, keepdim), X)


@pytest.mark.parametrize("decimals", [-1, 0, 2])
def test_rounding_to_decimals(decimals):
    check(lambda x: torch.round(x * 37, decimals=decimals), X)


def test_inner_products():
    matrix = torch.randn(4, 4)
    check(lambda x: torch.inner(x, matrix), torch.randn(3, 4))
    check(lambda x: torch.inner(x, torch.tensor(2.0)), X)
    check(torch.inner, torch.tensor(2.0), torch.tensor(3.0), batch=None)
    check(lambda x: x.sum().reshape(()), X, batch=None)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_shifts(count):
    numbers = torch.tensor([[5, -5, 0, 1, -1, 100], [7, -8, 9, -16, 33, -100]])
    for dtype in (torch.int64, torch.int32):
        check(lambda x: (x << count) + (x >> count), numbers.to(dtype))
    check(lambda x: torch.bitwise_right_shift(x, count), numbers)


def test_what_stays_a_torch_operator():
    check(lambda x: x >> 62, torch.tensor([[1 << 62, 5]]), carried=[])
    check(lambda x: x >> 63, torch.tensor([[1 << 62, -5]]), carried=["__rshift__"])
