"""Torch's own decompositions, for operators that have no converter."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv


def decompose(node: fx.Node) -> Iterator[tuple[fx.GraphModule, list[fx.Node]]]:
    """Writes one call with simpler operators.

    Yields:
        The graph, and the fx nodes whose values are its arguments; in the order in which they should be tried. None at
        all when torch has no decomposition, or only one that needs to know the data or the sizes.
    """
    function = _decomposition(node.target)
    if function is None:
        return
    operands = [operand for operand in node.all_input_nodes if "val" in operand.meta]
    traced = [operand.meta["val"] for operand in operands]

    def call(*values: Any) -> Any:
        mapping = dict(zip(operands, values, strict=True))
        args = fx.map_arg(node.args, mapping.__getitem__)
        kwargs = fx.map_arg(dict(node.kwargs), mapping.__getitem__)
        result = function(*args, **kwargs)
        return tuple(result) if isinstance(result, list | tuple) else result  # fx cannot hold torch's named tuples

    # What a decomposition in Python calls (pad) stays whole at first, as in torch.export: much of it has converters.
    for whole in (True, False) if node.target in decomposition_table else (False,):
        module = _trace(call, traced, whole)
        if module is not None and not any(n.target is node.target for n in module.graph.nodes):
            yield module, operands


def _trace(call: Callable[..., Any], traced: list[Any], whole: bool) -> fx.GraphModule | None:
    with _mode(traced) as mode:
        try:
            with _open_sizes(mode.shape_env) as fixed:
                module = make_fx(call, tracing_mode="real", pre_dispatch=whole)(*traced)
            if fixed:
                # Torch's own code may read a size as a number and make nothing of it: what is left then needs none.
                module.graph.eliminate_dead_code()
                module.recompile()
                with _open_sizes(mode.shape_env) as fixed:
                    module(*traced)
        except _UNTRACEABLE:
            return None
    return None if fixed else module


# What a decomposition raises that looks at data, or does not support these arguments.
_UNTRACEABLE = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, KeyError)


def _decomposition(target: Any) -> Callable[..., Any] | None:
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if target in decomposition_table:
        return decomposition_table[target]
    return target.decompose if target._can_decompose() else None


@contextlib.contextmanager
def _open_sizes(env: ShapeEnv | None) -> Iterator[list[Any]]:
    """Notes in a list, and undoes, when what is traced inside fixes an open size to a number.

    The symbols belong to the whole export: what was fixed here would be fixed everywhere.
    """
    fixed: list[Any] = []
    if env is None:
        yield fixed
        return
    before = {name: copy.copy(getattr(env, name)) for name in _KNOWLEDGE}
    try:
        yield fixed
    finally:
        known = before["replacements"]
        fixed += [s for s, size in env.replacements.items() if size.is_number and known.get(s) != size]
        if fixed:
            for name, value in before.items():
                setattr(env, name, value)
            env._update_version_counter()


# What an environment learns about its symbols from a guard.
_KNOWLEDGE = (
    "replacements",
    "replacements_slocs",
    "var_to_range",
    "var_to_range_sloc",
    "axioms",
    "divisible",
    "guards",
)


def _mode(traced: list[Any]) -> FakeTensorMode:
    for value in traced:
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode()
