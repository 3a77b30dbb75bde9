"""The cost before and after each pass."""

from __future__ import annotations

from graphopt.ir import Graph
from graphopt.pipeline.base import Changes, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument
from graphopt.pipeline.report import CostSummary, PassReport


def summarise(graph: Graph, context: Context) -> CostSummary:
    """The cost of a graph in four figures."""
    cost = context.cost(graph)
    return CostSummary(cost.count, cost.macs, cost.weights, cost.weight_bytes, len(cost.unknown))


class CostDelta(Instrument):
    """Notes nodes, multiply-accumulates and weights before and after each pass."""

    def before(self, step: Pass, graph: Graph, context: Context, entry: PassReport) -> None:
        entry.before = summarise(graph, context)

    def after(self, step: Pass, graph: Graph, context: Context, changes: Changes, entry: PassReport) -> None:
        entry.after = summarise(graph, context) if changes.modified else entry.before
