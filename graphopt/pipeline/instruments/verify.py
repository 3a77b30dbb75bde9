"""The verifier as an instrument."""

from __future__ import annotations

from graphopt.analysis.shapes import propagate
from graphopt.ir import Graph
from graphopt.pipeline.base import Changes, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument
from graphopt.pipeline.report import PassReport


class Verify(Instrument):
    """Checks that the graph is well formed, and its types consistent, after every pass that changed it."""

    def after(self, step: Pass, graph: Graph, context: Context, changes: Changes, entry: PassReport) -> None:
        if changes.modified:
            graph.verify()
            propagate(graph)
