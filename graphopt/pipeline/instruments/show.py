"""Printing the graph around passes."""

from __future__ import annotations

import difflib
import sys
from typing import TextIO

from graphopt.ir import Graph
from graphopt.pipeline.base import Changes, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument
from graphopt.pipeline.report import PassReport


class PrintGraph(Instrument):
    """Prints what each pass changed: a unified diff of the text form, or the whole text.

    Args:
        diff: print differences instead of whole graphs.
        stream: where to.
    """

    def __init__(self, diff: bool = True, stream: TextIO | None = None) -> None:
        self.diff = diff
        self.stream = stream
        self._before: list[str] = []

    def before(self, step: Pass, graph: Graph, context: Context, entry: PassReport) -> None:
        self._before = str(graph).splitlines() if self.diff else []

    def after(self, step: Pass, graph: Graph, context: Context, changes: Changes, entry: PassReport) -> None:
        if not changes.modified:
            return
        stream = self.stream or sys.stderr
        if not self.diff:
            print(f"// after {entry.name}\n{graph}", file=stream)
            return
        lines = difflib.unified_diff(
            self._before, str(graph).splitlines(), f"before {entry.name}", f"after {entry.name}", lineterm=""
        )
        print("\n".join(lines), file=stream)
