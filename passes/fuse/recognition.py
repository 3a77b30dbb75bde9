"""What passes share that put one operator in the place of the primitives it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from graphopt.backends.onnx_opset import DEFAULT, NEWEST, OLDEST, expressible, possible_opsets
from graphopt.errors import GraphoptError, OptionError
from graphopt.ir import Graph
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.constants import FoldingRule, FusePass
from graphopt.rewrite import Failure, Match, Result, Rule


class OpsetLimit:
    """The newest opset that recognised operators may ask for.

    Args:
        graph: the graph.
        opset: as the user says; 0 to ask for nothing that the model's runtime has not shown to understand: the opset of
            its file, the one that its other operators need, and in any case the one that files are written with.
    """

    def __init__(self, graph: Graph, opset: int = 0) -> None:
        self._graph = graph
        self._opset = opset

    @cached_property
    def newest(self) -> int:
        """The opset; worked out when first asked for, since that takes a walk over the graph."""
        if self._opset:
            return self._opset
        try:
            needed = possible_opsets(self._graph, None)[0]
        except GraphoptError:  # it cannot be written as ONNX as it stands
            needed = DEFAULT
        return max(DEFAULT, needed, self._graph.model.opset)


class Recognition(FoldingRule):
    """A rule that makes a newer operator of older ones: it declines where that would raise the opset of the file."""

    def __init__(self, limit: OpsetLimit | None = None) -> None:
        super().__init__()
        self.limit = limit

    def recognise(self, op: Builder, m: Match) -> Result:
        """As `rewrite`, opsets aside."""
        raise TypeError(f"{type(self).__name__} does not define recognise()")

    def rewrite(self, op: Builder, m: Match) -> Result:
        # Asked for before the graph has the new operator, which would raise what it needs.
        newest = NEWEST if self.limit is None else self.limit.newest
        result = self.recognise(op, m)
        if isinstance(result, Failure):
            return result
        for node in op.nodes:
            opsets = 0 if node.domain else expressible(node)
            lowest = (opsets & -opsets).bit_length() - 1
            if not opsets:
                return m.fail(f"{node.op} of {node.output.dtype} is in no opset")
            if lowest > newest:
                return m.fail(f"{node.op} needs opset {lowest}; opset={lowest} allows it")
        return result


@dataclass(frozen=True)
class RecognisePass(FusePass):
    """A pass made of recognitions.

    Attributes:
        opset: newest ONNX opset that recognised operators may need; 0: the one of the model's file, or that its other
            operators need, but at least 18. So a file stays usable for the runtime that it was made for.
    """

    opset: int = 0

    def __post_init__(self) -> None:
        if self.opset and not OLDEST <= self.opset <= NEWEST:
            raise OptionError(
                f"opset is {self.opset}", where=f"{self.name}{{opset}}", hint=f"give {OLDEST} to {NEWEST}, or 0"
            )

    def rules_for(self, graph: Graph) -> list[Rule]:
        limit = OpsetLimit(graph, self.opset)
        return [_make(rule, limit) for rule in self.rules]


def _make(rule: type[Rule], limit: OpsetLimit) -> Rule:
    make: Callable[..., Rule] = rule
    return make(limit) if issubclass(rule, Recognition) else make()
