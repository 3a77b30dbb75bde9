"""Passes: what they are, what they promise, what they report."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.analysis.operators import operator_index
from graphopt.ir import Graph

if TYPE_CHECKING:
    from graphopt.pipeline.context import Context


class Contract(enum.Enum):
    """What a pass promises about the numbers that the graph computes.

    EXACT: equal up to the order of float operations. MASKED: equal to the original with the contributions of the
    removed channels zeroed. APPROXIMATE: close; the error is measured and reported. TRAINED: the weights are meant to
    change.
    """

    EXACT = "exact"
    MASKED = "masked"
    APPROXIMATE = "approximate"
    TRAINED = "trained"


@dataclass(frozen=True)
class Changes:
    """What a pass did, beyond having changed something.

    Attributes:
        modified: the graph differs from what it was.
        counts: how often each rule or action took place.
        notes: sentences for people: what was left alone and why.
        kept: for pruned constants, by name and dimension, the indices that were kept (ascending).
        details: figures for programs, as plain data.
    """

    modified: bool
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kept: Mapping[str, Mapping[int, list[int]]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.modified


@dataclass(frozen=True)
class Pass:
    """A graph rewrite with options: subclass as a frozen dataclass whose fields are the options, and register it.

    Class attributes:
        name: set by `register`.
        contract: what the pass promises; the equivalence instrument holds it to that.
        needs: what the context must provide: "data", "labels".
        takes: names of the values that it asks `Context.options` for: ``optimize(..., teacher=module)``.
        looks_for: operators without which the pass has nothing to do; it is skipped when the graph has none of them.
    """

    name: ClassVar[str] = ""
    contract: ClassVar[Contract] = Contract.EXACT
    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset()
    looks_for: ClassVar[frozenset[str]] = frozenset()

    def run(self, graph: Graph, context: Context) -> bool | Changes:
        """Rewrites `graph` in place and says whether it changed."""
        raise TypeError(f"{type(self).__name__} does not define run()")

    def applies_to(self, graph: Graph) -> bool:
        """False when none of the operators that the pass looks for is in the graph."""
        return not self.looks_for or any(op in self.looks_for for _, op in operator_index(graph))
