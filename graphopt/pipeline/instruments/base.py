"""The hook that instruments hang on."""

from __future__ import annotations

from graphopt.ir import Graph
from graphopt.pipeline.base import Changes, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.report import PassReport


class Instrument:
    """Watches a run. All methods do nothing unless overridden; an error raised in `after` undoes the pass."""

    def before(self, step: Pass, graph: Graph, context: Context, entry: PassReport) -> None:
        """Called before a pass runs."""

    def after(self, step: Pass, graph: Graph, context: Context, changes: Changes, entry: PassReport) -> None:
        """Called after a pass has run, while it can still be undone."""

    def failed(self, step: Pass, graph: Graph, context: Context, error: Exception, rest: str) -> str:
        """Called after a failed pass has been undone; `rest` is the pipeline from it on. Returns a hint."""
        return ""
