"""Zeros that training leaves alone: sparse weights stay sparse."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from graphopt.backends.torch_sync import bindings, tensors_of
from graphopt.ir import Graph

#: Option of a run: names of the weights whose zeros training keeps.
SPARSE = "sparse_weights"


def hold_zeros(
    optimizer: torch.optim.Optimizer, student: nn.Module, graph: Graph, names: Collection[str] | None
) -> int:
    """Makes every step of `optimizer` put weights back to zero that are zero now.

    Args:
        optimizer: over the parameters of `student`.
        student: emitted from `graph`.
        graph: whose constants `names` are.
        names: of the weights; ``None`` stands for all that have two dimensions and more.

    Returns:
        The number of weights that are held.
    """
    tensors = tensors_of(student)
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    for prefix, binding in bindings(graph):
        for tensor in (tensors[prefix + key] for key in binding.keys if prefix + key in tensors):
            wanted = tensor.dim() >= 2 if names is None else binding.value.name in names
            if wanted and bool((tensor == 0).any()):
                held.append((tensor, tensor != 0))

    def put_back(*_: object) -> None:
        with torch.no_grad():
            for tensor, mask in held:
                tensor.mul_(mask)

    optimizer.register_step_post_hook(put_back)
    return len(held)
