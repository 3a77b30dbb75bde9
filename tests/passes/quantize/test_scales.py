"""Scales and zero points, by their definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir import DType
from graphopt.passes.quantize.scales import parameters_of_range, weight_parameters
from graphopt.targets import Scheme

numbers = st.floats(-1e6, 1e6, allow_subnormal=False, width=32)


@given(numbers, numbers, st.integers(2, 16))
def test_asymmetric_is_the_textbook_formula(a, b, bits):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    dtype = DType.UINT8 if bits <= 8 else DType.UINT16
    scale, zero = parameters_of_range(
        torch.tensor(a).minimum(torch.tensor(b)), torch.tensor(max(a, b)), Scheme(dtype, bits=bits)
    )
    step = (high - low) / (2**bits - 1)
    if step < 1e-37:
        return
    assert float(scale) == pytest.approx(step, rel=1e-6)
    assert 0 <= int(zero) < 2**bits
    # Zero is a point of the grid, and the ends of the range are within half a step of it.
    grid = (np.array([0, 2**bits - 1]) - int(zero)) * step
    assert grid[0] == pytest.approx(low, abs=0.501 * step)
    assert grid[1] == pytest.approx(high, abs=0.501 * step)


@given(numbers, numbers, st.integers(2, 16))
def test_symmetric_has_zero_point_zero_and_reaches_both_ends(a, b, bits):
    dtype = DType.INT8 if bits <= 8 else DType.INT16
    low, high = torch.tensor(min(a, b)), torch.tensor(max(a, b))
    scale, zero = parameters_of_range(low, high, Scheme(dtype, symmetric=True, bits=bits))
    assert int(zero) == 0
    assert float(scale) > 0
    largest = max(abs(min(a, 0)), abs(max(b, 0)), abs(min(b, 0)), abs(max(a, 0)))
    if largest > 1e-30:
        assert float(scale) * (2 ** (bits - 1) - 1) == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize("scheme", [Scheme(DType.UINT8), Scheme(DType.INT8, symmetric=True)])
def test_an_empty_range_still_gives_a_usable_scale(scheme):
    scale, zero = parameters_of_range(torch.tensor(0.0), torch.tensor(0.0), scheme)
    assert float(scale) == 1.0
    assert int(zero) == 0


def test_the_scale_never_underflows():
    scale, _ = parameters_of_range(torch.tensor(0.0), torch.tensor(1e-45), Scheme(DType.UINT8))
    assert float(scale) >= torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_weights_per_channel(axis):
    weight = torch.randn(3, 4, 5)
    scale, zero = weight_parameters(weight, axis, Scheme(DType.INT8, symmetric=True))
    others = None if axis is None else tuple(d for d in range(3) if d != axis)
    expected = np.abs(weight.numpy()).max(axis=others) / 127
    np.testing.assert_allclose(scale.numpy(), expected, rtol=1e-6)
    assert zero.dtype is torch.int8
    assert not zero.any()
