"""The reproducer: what is needed to replay a pass that crashed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import Graph
from graphopt.pipeline.base import Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument


class Reproducer(Instrument):
    """Writes the graph before a failing pass, the rest of the pipeline, the seed and a batch of the data.

    Args:
        folder: where to; made when the first pass fails.
    """

    def __init__(self, folder: str | Path = "graphopt-crash") -> None:
        self.folder = Path(folder)

    def failed(self, step: Pass, graph: Graph, context: Context, error: Exception, rest: str) -> str:
        from graphopt.ir.text import write_text  # needed on the day of a crash only

        file = self.folder / "graph.txt"
        words = ["graphopt", "optimize", str(file), "-p", rest, "--seed", str(context.seed)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(graph, file)
            if context.has_data:
                words += ["--data", str(self._write_data(context))]
            words += ["-o", str(self.folder / "out.onnx")]
            note = {
                "pipeline": rest,
                "seed": context.seed,
                "error": f"{type(error).__name__}: {error}",
                "replay": shlex.join(words),
            }
            (self.folder / "crash.json").write_text(json.dumps(note, indent=2))
        except (OSError, GraphoptError) as problem:  # the pass's own error matters more
            return f"no reproducer could be written: {problem}"
        return f"replay it with: {shlex.join(words)}"

    def _write_data(self, context: Context) -> Path:
        file = self.folder / "data.npz"
        batch = context.data.first()
        arrays = {value.name: tensor.numpy() for value, tensor in zip(context.data.inputs, batch.inputs, strict=True)}
        if batch.labels is not None:
            arrays["labels"] = batch.labels.numpy()
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes them for `allow_pickle`
        return file
