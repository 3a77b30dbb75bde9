"""New constants in the place of old ones: what they are called, and when they may be made at all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch

from graphopt.ir import Graph, Parameter, Value
from graphopt.ops.builder import Builder
from graphopt.rewrite import Failure, Match, RewritePass, Rule
from graphopt.rewrite.replace import module_of

# A copy of a constant this small is worth a node less.
_SMALL = 4096


def keeps_range(data: torch.Tensor, exact: torch.Tensor) -> bool:
    """True when no element of `data` is infinite or NaN, and not all are too small to be normal numbers.

    In one reading, where ``torch.isfinite`` writes several copies.

    Args:
        data: floats.
        exact: what they were rounded from.
    """
    if not data.numel():
        return True
    low, high = (float(end) for end in torch.aminmax(data))
    if not (math.isfinite(low) and math.isfinite(high)):
        return False
    return max(-low, high) >= torch.finfo(data.dtype).tiny or not bool(exact.any())


class FusePass(RewritePass):
    """A pass that folds constants into others. What was folded leaves the graph, and with it its module."""

    drops_parameters: ClassVar[bool] = True


class FoldingRule(Rule):
    """A rule that makes new constants from old ones."""

    # What an instance holds are the names that are taken.
    fixed_pattern: ClassVar[bool] = True

    def __init__(self) -> None:
        self._taken: set[str] | None = None

    def refold(self, op: Builder, m: Match, old: Value, data: torch.Tensor) -> Value | Failure:
        """A constant with new numbers that takes the place, the label and the parameter's name of `old`.

        Args:
            op: builder.
            m: the match, whose nodes are the only readers of `old`; else it must be small, and no parameter.
            old: what it replaces.
            data: the numbers, in float64.
        """
        matched = set(m.nodes)
        shared = old.is_output or any(user not in matched for user in old.users)
        if shared and (old.parameter is not None or (old.data is not None and old.data.nbytes > _SMALL)):
            return m.fail("a weight is shared with another node")
        cast = data.to(old.dtype.torch).contiguous()
        if not keeps_range(cast, data):
            return m.fail(f"the folded numbers are out of the range of {old.dtype}")
        return op.constant(cast, name=old.name, parameter=old.parameter, dtype=old.dtype)

    def new_bias(self, op: Builder, m: Match, weight: Value, data: torch.Tensor) -> Value | Failure:
        """A bias for a layer that had none: a parameter of the module that `weight` belongs to, if it does to one."""
        cast = data.to(weight.dtype.torch).contiguous()
        if not keeps_range(cast, data):
            return m.fail(f"the folded numbers are out of the range of {weight.dtype}")
        name = weight.name.removesuffix("weight") + "bias" if weight.name.endswith("weight") else ""
        parameter: Parameter | None = None
        if weight.parameter is not None:
            name = self._free_name(m.graph.root, f"{module_of(weight)}.bias".lstrip("."))
            parameter = replace(weight.parameter, name=name, aliases=())
        return op.constant(cast, name=name, parameter=parameter, dtype=weight.dtype)

    def _free_name(self, graph: Graph, name: str) -> str:
        if self._taken is None:
            self._taken = {value.parameter.name for value in graph.parameters if value.parameter is not None}
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
