"""The diagonal of a loss's Hessian, estimated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch

from graphopt.errors import PassError

#: Random vectors that go through a network side by side; memory grows with them, as with samples.
SIDE_BY_SIDE = 8


def diagonal(
    loss: torch.Tensor, leaves: Sequence[torch.Tensor], probes: int, generator: torch.Generator
) -> list[torch.Tensor | None]:
    """Estimates ``d2loss/dw2`` for every element of `leaves`.

    Hutchinson's estimator (Bekas, Kokiopoulou, Saad: An estimator for the diagonal of a matrix, 2007): the mean of
    ``v * Hv`` over random signs v. Hv is a pass back through the backward pass, which costs about two to three times a
    plain one; `SIDE_BY_SIDE` of them are vectorised.

    Args:
        loss: a scalar, with its autograd graph.
        leaves: float tensors that `loss` depends on, or not.
        probes: number of random vectors; the error falls with its square root.
        generator: draws the signs.

    Returns:
        For each leaf a tensor of its shape, or ``None`` where the loss's gradient does not depend on it.

    Raises:
        PassError: the loss cannot be differentiated twice.
    """
    sums: list[torch.Tensor | None] = [None] * len(leaves)
    try:
        first = torch.autograd.grad(loss, leaves, allow_unused=True, create_graph=True)
        live = [k for k, gradient in enumerate(first) if gradient is not None and gradient.requires_grad]
        gradients = [gradient for gradient in (first[k] for k in live) if gradient is not None]
        for signs, products in _products(gradients, [leaves[k] for k in live], probes if live else 0, generator):
            for k, sign, product in zip(live, signs, products, strict=True):
                if product is not None:
                    step = (sign * product).sum(0) / probes
                    before = sums[k]
                    sums[k] = step if before is None else before + step
    except (RuntimeError, NotImplementedError) as error:
        raise PassError(
            f"the loss cannot be differentiated twice: {error}", where="criterion=hessian",
            hint="take obd-c, which needs first derivatives only",
        ) from error  # fmt: skip
    return sums


def _products(
    gradients: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor], probes: int, generator: torch.Generator
) -> Iterator[tuple[list[torch.Tensor], Sequence[torch.Tensor | None]]]:
    """Random signs, and the Hessian's products with them: for each leaf [probes, ...]; a few probes at a time."""
    width = SIDE_BY_SIDE
    while probes:
        count = min(width, probes)
        signs = [torch.randint(0, 2, (count, *g.shape), generator=generator).to(g) * 2 - 1 for g in gradients]
        if count == 1:
            single = torch.autograd.grad(
                gradients, leaves, [each[0] for each in signs], retain_graph=True, allow_unused=True
            )
            yield signs, [None if each is None else each[None] for each in single]
            probes -= 1
            continue
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")  # vmap loops over such an operator
                products = torch.autograd.grad(
                    gradients, leaves, signs, retain_graph=True, allow_unused=True, is_grads_batched=True
                )
        except RuntimeError:  # an operator that vmap cannot take: one after the other
            width = 1
            continue
        yield signs, products
        probes -= count
