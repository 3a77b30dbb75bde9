"""Passes that are made of rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.analysis import propagate
from graphopt.ir import Graph, Value
from graphopt.pipeline.base import Changes, Pass
from graphopt.pipeline.context import Context
from graphopt.rewrite.driver import apply_rules
from graphopt.rewrite.replace import is_kept
from graphopt.rewrite.rule import Rule


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that applies rules until none applies: list them in `rules`, and register it.

    Its changes count the hits of each rule, and say of the matches that were left alone why.

    Class attributes:
        rules: classes of the rules, in the order in which they are tried.
        drops_parameters: parameters that nothing reads after a rewrite leave the graph (they live on in others), and
            so do the buffers of modules that lost their last one. Otherwise the ``state_dict`` stays complete.
    """

    rules: ClassVar[tuple[type[Rule], ...]] = ()
    drops_parameters: ClassVar[bool] = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "looks_for" not in vars(cls):
            cls.looks_for = frozenset(op for rule in cls.rules for _, op in rule().compiled.keys)

    def make_rules(self) -> list[Rule]:
        """The rules of one run. Override to hand options to them."""
        return [rule() for rule in self.rules]

    def rules_for(self, graph: Graph) -> list[Rule]:
        """The rules of one run on `graph`. Override where they depend on the graph."""
        return self.make_rules()

    def keeps(self, value: Value) -> bool:
        """Whether a constant stays when nothing reads it any more."""
        return not self.drops_parameters and is_kept(value)

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        statistics = apply_rules(graph, self.rules_for(graph), name=self.name, keep=self.keeps)
        return Changes(
            modified=bool(statistics.hits),
            counts=dict(statistics.hits),
            notes=statistics.notes(),
            details=statistics.details(),
        )
