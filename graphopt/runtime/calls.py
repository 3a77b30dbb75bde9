"""Calling an emitted module with the flat inputs of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.ir import Graph


def call_flat(module: nn.Module, graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Calls `module` (the original, or one emitted from `graph`) on the graph's inputs, in order.

    Returns:
        The tensors of the result, in the order of the graph's outputs; numbers that the graph computes as tensors, too.
    """
    signature = graph.signature
    if signature is None:
        result = module(*inputs)
    else:
        leaves = [leaf.literal if leaf.index is None else inputs[leaf.index] for leaf in signature.inputs]
        args, kwargs = pytree.tree_unflatten(leaves, signature.in_tree)
        result = module(*args, **kwargs)
    flat: list[Any] = pytree.tree_leaves(result)
    for position, leaf in enumerate(signature.outputs if signature is not None else ()):
        if leaf.number and leaf.index is not None and position < len(flat):
            flat[position] = torch.as_tensor(flat[position], dtype=graph.outputs[leaf.index].dtype.torch)
    return [leaf for leaf in flat if isinstance(leaf, torch.Tensor)]
