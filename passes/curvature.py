"""What passes that use the second moments of a layer's inputs share: the factor that says who makes up for whom."""

from __future__ import annotations

import torch

from graphopt.errors import DataError


def inverse_factor(moments: torch.Tensor, damp: float) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of damped moments: [in, in].

    Row i, over its diagonal, is what columns behind i change by when column i is held (GPTQ, arXiv:2210.17323, and
    SparseGPT, arXiv:2301.00774, algorithm 1 of each).

    Args:
        moments: [in, in], float64, symmetric, not negative.
        damp: part of the mean of the diagonal that is added to it; doubled until the matrix can be inverted.

    Raises:
        DataError: the moments hold NaN or infinity.
    """
    if not bool(torch.isfinite(moments).all()):
        raise DataError(
            "what a layer reads holds NaN or infinity", hint="the float network overflows on this data: scale it down"
        )
    mean = float(moments.diagonal().mean()) or 1.0
    identity = torch.eye(len(moments), dtype=moments.dtype)
    while True:
        lower, failed = torch.linalg.cholesky_ex(moments + damp * mean * identity)
        if not failed:
            break
        damp *= 2
    inverse = torch.cholesky_inverse(lower)
    upper: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper
