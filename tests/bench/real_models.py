"""Real ONNX files through load -> simplify -> save, judged by ONNX Runtime, and executed with torch.

Run by hand, with OMP_NUM_THREADS=1: ``python -m tests.bench.real_models`` (see `tests.real_models` for what to
install). Prints a Markdown table; seconds are CPU seconds.
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
from graphopt.ir import DType
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession
from tests.passes.rule_cases import in_precision
from tests.real_models import MODELS, Feed, RealModel, facts, opset, stream

COLUMNS = (
    "model", "pipeline", "opset", "nodes", "after", "bytes", "after", "seconds", "error", "error torch",
    "off float64", "after", "speed-up", "facts",
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


def exactly(path: Path, model: RealModel, outputs: list[str]) -> list[list[Any]] | None:
    """What the original computes in float64; ``None`` where it holds types or bodies that cannot be turned."""
    graph = go.load(path)
    turned = not any(node.bodies or node.op.startswith("DynamicQuantize") for node in graph.walk())
    if not turned or model.state:
        return None

    def call(feed: Feed) -> list[Any]:
        wide = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in feed.items()}
        return [np.asarray(y).astype(np.float32) for y in run(graph, wide)]

    try:
        return list(stream(call, model, outputs, 0)) if in_precision(graph, DType.FLOAT64, casts=True) else None
    except go.GraphoptError:  # something else in it says float32
        return None


def speed_up(theirs: OrtSession, ours: OrtSession, feed: Feed, repeats: int = 25) -> float:
    """CPU time of one call on one thread over that of the other: medians, the sides in turns."""
    times: dict[OrtSession, list[float]] = {theirs: [], ours: []}
    for turn in range(repeats + 1):
        for session in (theirs, ours) if turn % 2 else (ours, theirs):
            started = time.process_time()
            session.run(feed)
            times[session].append(time.process_time() - started)
    return float(np.median(times[theirs][1:]) / np.median(times[ours][1:]))


def row(model: RealModel, path: Path, pipeline: str, out: Path) -> list[str]:
    """One line of the table."""
    started = time.process_time()
    graph = go.load(path)
    before = sum(1 for _ in graph.walk())
    if pipeline:
        go.optimize(graph, pipeline)
    go.save(graph, out)
    seconds = time.process_time() - started
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
    exact, got = exactly(path, model, outputs), list(stream(ours.run, model, outputs, 0))
    return [
        model.name, pipeline or "-", f"{opset(original)} -> {opset(written)}", str(before),
        str(sum(1 for _ in graph.walk())), f"{path.stat().st_size:,}", f"{out.stat().st_size:,}", f"{seconds:.2f}",
        f"{error(got, want):.1e}", f"{max(error(executed, want), error(called, want)):.1e}",
        *("-" if exact is None else f"{error(side, exact):.1e}" for side in (want, got)),
        f"{speed_up(theirs, ours, feed):.2f}x",
        "equal" if facts(original) == facts(written) else "differ",
    ]  # fmt: skip


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", nargs="+", default=["", "simplify", "simplify,fuse"])
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="names of the table; all by default")
    arguments = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        for model in map(MODELS.__getitem__, arguments.models):
            path = model.path
            if path is None:
                print(f"| {model.name} | package {model.package} is not installed |")
                continue
            for pipeline in arguments.pipelines:
                print("| " + " | ".join(row(model, path, pipeline, Path(folder) / "out.onnx")) + " |", flush=True)


if __name__ == "__main__":
    main()
