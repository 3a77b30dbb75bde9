"""The reproducer: what is needed to replay a pass that crashed."""

from __future__ import annotations

import json
from pathlib import Path

from graphopt.ir import Graph
from graphopt.pipeline.base import Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument


class Reproducer(Instrument):
    """Writes the graph before a failing pass, the rest of the pipeline and the seed.

    Args:
        folder: where to; made when the first pass fails.
    """

    def __init__(self, folder: str | Path = "graphopt-crash") -> None:
        self.folder = Path(folder)

    def failed(self, step: Pass, graph: Graph, context: Context, error: Exception, rest: str) -> str:
        from graphopt.ir.text import write_text  # needed on the day of a crash only

        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "graph.txt"
        write_text(graph, file)
        note = {"pipeline": rest, "seed": context.seed, "error": f"{type(error).__name__}: {error}"}
        (self.folder / "crash.json").write_text(json.dumps(note, indent=2))
        return f"replay it with: graphopt optimize {file} -p '{rest}' --seed {context.seed} -o out.onnx"
