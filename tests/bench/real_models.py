"""Real ONNX files through load -> simplify -> save, judged by ONNX Runtime, and executed with torch.

Run by hand: ``python -m tests.bench.real_models`` (see `tests.real_models` for what to install). Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import graphopt as go
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession
from tests.real_models import MODELS, Feed, RealModel, facts, opset, stream

COLUMNS = (
    "model", "pipeline", "opset", "nodes", "after", "bytes", "after", "seconds", "error", "error torch", "speed-up",
    "facts",
)  # fmt: skip


def error(got: list[list[Any]], want: list[list[Any]]) -> float:
    """The largest difference, relative to the largest magnitude of the output."""
    worst = 0.0
    for mine, theirs in zip(got, want, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert (a.shape, a.dtype) == (b.shape, b.dtype), (a.shape, a.dtype, b.shape, b.dtype)
            if a.size:
                x, y = a.astype(np.float64), b.astype(np.float64)
                worst = max(worst, float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-6)))
    return worst


def median_ms(session: OrtSession, feed: Feed, repeats: int = 30) -> float:
    """Median milliseconds of one call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        session.run(feed)
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


def row(model: RealModel, path: Path, pipeline: str, out: Path) -> list[str]:
    """One line of the table."""
    started = time.perf_counter()
    graph = go.load(path)
    before = sum(1 for _ in graph.walk())
    if pipeline:
        go.optimize(graph, pipeline)
    go.save(graph, out)
    seconds = time.perf_counter() - started
    original, written = onnx.load(path), onnx.load(out)
    outputs = [each.name for each in original.graph.output]
    theirs, ours = OrtSession(path), OrtSession(out)
    want = list(stream(theirs.run, model, outputs, 0))
    module = go.to_torch(graph)

    def call(feed: Feed) -> list[Any]:
        with torch.no_grad():
            result = module(*(torch.from_numpy(np.array(feed[value.name])) for value in graph.inputs))
        return list(result) if isinstance(result, tuple) else [result]

    executed = list(stream(lambda feed: run(graph, feed), model, outputs, 0))
    called = list(stream(call, model, outputs, 0))
    feed = model.feeds(np.random.default_rng(0))[0]
    return [
        model.name, pipeline or "-", f"{opset(original)} -> {opset(written)}", str(before),
        str(sum(1 for _ in graph.walk())), f"{path.stat().st_size:,}", f"{out.stat().st_size:,}", f"{seconds:.2f}",
        f"{error(list(stream(ours.run, model, outputs, 0)), want):.1e}",
        f"{max(error(executed, want), error(called, want)):.1e}",
        f"{median_ms(theirs, feed) / median_ms(ours, feed):.2f}x",
        "equal" if facts(original) == facts(written) else "differ",
    ]  # fmt: skip


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", nargs="+", default=["", "simplify", "simplify,fuse"])
    arguments = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS.values():
            path = model.path
            if path is None:
                print(f"| {model.name} | package {model.package} is not installed |")
                continue
            for pipeline in arguments.pipelines:
                print("| " + " | ".join(row(model, path, pipeline, Path(folder) / "out.onnx")) + " |", flush=True)


if __name__ == "__main__":
    main()
