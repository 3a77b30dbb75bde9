"""Number formats by the errors that theory says they have."""

import math

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from graphopt.ir import DType
from graphopt.passes.quantize.fit import (
    fit_piecewise,
    fit_range,
    fit_table,
    nearest_entries,
    powers_of_two,
    rounded,
    rows_of,
    storage,
)
from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.targets import Scheme


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape):
    return torch.randn(*shape, generator=generator())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8, 11, 16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_uniform_numbers_on_a_uniform_grid_have_a_twelfth_of_a_step_squared(bits, symmetric):
    rows = torch.rand(1, 200_000, generator=generator(), dtype=torch.float64).float() * 2 - (1 if symmetric else 0.5)
    scheme = Scheme(storage(bits, symmetric), symmetric, bits=bits)
    scale, zero = parameters_of_range(*fit_range(rows, scheme, "minmax"), scheme)
    error = float((rounded(rows, scale, zero, scheme) - rows).double().square().mean())
    step = 2 / (2**bits - (2 if symmetric else 1))
    # The end points of a symmetric grid get half a step more.
    assert error == pytest.approx(step**2 / 12, rel=0.15 if bits > 2 else 0.5)
    assert scheme.limits[1] - scheme.limits[0] == 2**bits - (2 if symmetric else 1)


@pytest.mark.parametrize(
    ("bits", "symmetric", "dtype"),
    [
        (2, True, "INT4"), (4, False, "UINT4"), (5, True, "INT8"), (8, False, "UINT8"), (9, True, "INT16"),
        (16, False, "UINT16"),
    ],
)  # fmt: skip
def test_bits_are_stored_in_the_next_type(bits, symmetric, dtype):
    assert storage(bits, symmetric) is DType[dtype]


@pytest.mark.parametrize(("dtype", "relative"), [(DType.FLOAT8E4M3FN, 2**-4), (DType.FLOAT8E5M2, 2**-3)])
def test_float8_has_a_relative_error(dtype, relative):
    rows = normal(1, 10_000)
    scheme = Scheme(dtype, symmetric=True)
    scale, zero = parameters_of_range(*fit_range(rows, scheme, "minmax"), scheme)
    usual = rows.abs() > 1e-2
    assert float(((rounded(rows, scale, zero, scheme) - rows) / rows)[usual].abs().max()) <= relative * 1.0001


def test_the_range_with_the_least_square_error_leaves_outliers_out():
    rows = torch.cat([normal(2, 5000), torch.tensor([[20.0], [4.0]])], 1)
    scheme = Scheme(DType.INT4, symmetric=True)
    errors = {}
    for search in ("minmax", "mse"):
        scale, zero = parameters_of_range(*fit_range(rows, scheme, search), scheme)
        errors[search] = (rounded(rows, scale, zero, scheme) - rows).square().mean(1)
    assert bool((errors["mse"] < errors["minmax"]).all())
    assert float(errors["mse"][0]) < 0.5 * float(errors["minmax"][0])


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_piecewise_has_the_paper_s_error_at_the_best_break_point(bits):
    rows = normal(1, 100_000)
    fitted = fit_piecewise(rows, bits)
    got = float((fitted.rounded(rows) - rows).square().mean())
    size, greatest = rows.abs(), float(rows.abs().max())

    def expected(p):  # equation 5: each region's share times its step squared over 12
        inner = float((size <= p).double().mean())
        return (p**2 * inner + (greatest - p) ** 2 * (1 - inner)) / (12 * fitted.levels**2)

    points = np.linspace(0.05, 0.95, 200) * greatest
    best = min(map(expected, points))
    assert got == pytest.approx(best, rel=0.1)
    assert float(fitted.breaks) == pytest.approx(points[np.argmin([expected(p) for p in points])], rel=0.15)
    scheme = Scheme(storage(bits, True), True, bits=bits)
    scale, zero = parameters_of_range(*fit_range(rows, scheme, "mse"), scheme)
    assert got < 0.7 * float((rounded(rows, scale, zero, scheme) - rows).square().mean())


def test_piecewise_numbers_are_two_grids():
    fitted = fit_piecewise(normal(3, 4000), 4)
    assert fitted.levels == 7
    for row in range(3):
        numbers = fitted.rounded(normal(3, 4000))[row].abs().unique()
        step, p = float(fitted.scale[row]), float(fitted.breaks[row])
        dense = numbers[numbers <= p * 1.0001] / step
        sparse = (numbers[numbers > p * 1.0001] - p) / (step * float(fitted.ratio[row]))
        for grid in (dense, sparse):
            assert float((grid - grid.round()).abs().max()) < 1e-4
            assert float(grid.max()) <= 7.0001


@pytest.mark.parametrize(("entries", "error"), [(4, 0.1175), (8, 0.03454), (16, 0.009497)])
def test_a_table_for_normal_numbers_has_lloyd_and_max_s_error(entries, error):
    rows = normal(1, 200_000)
    table = fit_table([rows], entries)
    got = float((table[nearest_entries(rows, table)] - rows).square().mean())
    assert got == pytest.approx(error, rel=0.02)  # Max 1960, table I
    assert len(table) == entries


def test_a_table_keeps_zeros():
    rows = torch.cat([torch.zeros(50), normal(500) + 0.1])
    table = fit_table([rows], 4)
    assert not table[nearest_entries(rows, table)][:50].any()


def test_a_table_is_as_good_as_scipy_s():
    rows = torch.distributions.Laplace(0.0, 1.0).sample((4000,))
    table = fit_table([rows], 16)
    got = float((table[nearest_entries(rows, table)] - rows).square().mean())
    _, labels = kmeans2(rows.numpy()[:, None].astype(float), 16, seed=0, minit="++", iter=60)
    centres = np.array([rows.numpy()[labels == k].mean() for k in range(16)])
    assert got <= 1.05 * float(((centres[labels] - rows.numpy()) ** 2).mean())


def test_a_table_of_fewer_numbers_than_entries_is_exact():
    rows = torch.tensor([[0.0, 1.0, -2.0, 1.0]])
    table = fit_table([rows], 8)
    assert torch.equal(table[nearest_entries(rows, table)], rows)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_powers_of_two_are_off_by_a_third_at_most(bits):
    table = powers_of_two(bits)
    assert len(table) == 2**bits - 1
    assert torch.equal(table, table.sort().values)
    nonzero = table[table != 0].abs()
    assert torch.equal(nonzero.log2(), nonzero.log2().round())
    numbers = torch.linspace(float(nonzero.min()), 1, 999)
    assert float(((table[nearest_entries(numbers, table)] - numbers) / numbers).abs().max()) <= 1 / 3 + 1e-6


@pytest.mark.parametrize(
    ("axis", "block", "shape"), [(None, 0, (1, 60)), (1, 0, (4, 15)), (1, 2, (30, 2)), (2, 3, (24, 3))]
)
def test_rows(axis, block, shape):
    weight = normal(3, 4, 5)
    rows = rows_of(weight, axis, block)
    assert tuple(rows.shape) == shape
    assert math.isclose(float(rows.sum()), float(weight.sum()), rel_tol=1e-4)
