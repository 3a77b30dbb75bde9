"""The factor that GPTQ, AdaRound and SparseGPT share."""

import pytest
import torch

from graphopt.errors import DataError
from graphopt.passes.curvature import inverse_factor


def test_it_factors_the_inverse_of_what_is_damped():
    x = torch.randn(50, 6, dtype=torch.float64)
    moments = x.T @ x
    upper = inverse_factor(moments, 0.01)
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped))
    assert torch.equal(upper, upper.triu())


def test_moments_of_nothing_can_be_factored():
    assert torch.isfinite(inverse_factor(torch.zeros(3, 3, dtype=torch.float64), 0.01)).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_overflows_is_refused_instead_of_damped_for_ever(bad):
    with pytest.raises(DataError, match="NaN or infinity"):
        inverse_factor(torch.full((3, 3), bad, dtype=torch.float64), 0.01)
