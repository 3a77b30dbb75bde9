"""Torch's own decompositions, for operators that have no converter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx


def decompose(node: fx.Node) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """Writes one call with simpler operators.

    Returns:
        The graph, and the fx nodes whose values are its arguments; ``None`` when torch has no decomposition, or only
        one that needs to know the data.
    """
    function = _decomposition(node.target)
    if function is None:
        return None
    operands = [operand for operand in node.all_input_nodes if "val" in operand.meta]
    traced = [operand.meta["val"] for operand in operands]

    def call(*values: Any) -> Any:
        mapping = dict(zip(operands, values, strict=True))
        args = fx.map_arg(node.args, mapping.__getitem__)
        kwargs = fx.map_arg(dict(node.kwargs), mapping.__getitem__)
        result = function(*args, **kwargs)
        return tuple(result) if isinstance(result, list | tuple) else result  # fx cannot hold torch's named tuples

    with _mode(traced):
        try:
            module = make_fx(call, tracing_mode="real")(*traced)
        except _UNTRACEABLE:
            return None
    calls = [n for n in module.graph.nodes if n.op == "call_function"]
    return None if any(n.target is node.target for n in calls) else (module, operands)


# What a decomposition raises that looks at data, or does not support these arguments.
_UNTRACEABLE = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, KeyError)


def _decomposition(target: Any) -> Callable[..., Any] | None:
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if target in decomposition_table:
        return decomposition_table[target]
    return target.decompose if target._can_decompose() else None


def _mode(traced: list[Any]) -> contextlib.AbstractContextManager[Any]:
    for value in traced:
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode()
