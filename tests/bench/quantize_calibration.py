"""Methods of calibration and of bias correction on Fashion-MNIST: accuracy, noise of the outputs, time.

Run by hand, after ``python -m tests.bench.fashion``:

    python -m tests.bench.quantize_calibration --data DIR --checkpoints DIR [--models resnet20 mobilenet_v2]

Files run in ONNX Runtime: top-1 on the test images, SQNR of the logits against the float file's. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import graphopt as go
from tests.bench.fashion import checkpoint, load, read

BATCH = 10
METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse", "best")
CORRECTIONS = ("none", "analytic", "empirical")
#: Bits of weights, and whether they have a scale per channel.
WEIGHTS = ((8, False), (6, False), (5, False), (5, True), (4, True))
#: Targets that calibration is measured for.
TARGETS = ("ort-cpu", "generic")

Batches = list[tuple[torch.Tensor]]


def logits(graph: go.Graph, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes for all images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        go.to_onnx(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + 200]})[0] for i in range(0, len(x), 200)])


class Measure:
    """A float network, and what is lost of it."""

    def __init__(self, module: Any, x: np.ndarray, y: np.ndarray) -> None:
        self.graph = go.capture(module, (torch.zeros(2, 3, 28, 28),), dynamic={"x": {0: "batch"}})
        go.optimize(self.graph, "simplify,keep-statistics,fuse")
        self.x, self.y = x, y
        self.wanted = logits(self.graph, x)

    def top1(self, found: np.ndarray) -> float:
        return 100 * float((found.argmax(1) == self.y).mean())

    def of(self, pipeline: str, data: Batches) -> tuple[str, go.Report]:
        """Cells of the table for the quantized network, and the report."""
        graph = self.graph.clone()
        report = go.optimize(graph, pipeline, data, check=False)
        found = logits(graph, self.x)
        noise = float(np.square(found - self.wanted).sum())
        sqnr = 10 * math.log10(float(np.square(self.wanted).sum()) / noise) if noise else math.inf
        return f"{self.top1(found):.2f} | {self.top1(found) - self.top1(self.wanted):+.2f} | {sqnr:.1f}", report


def calibration(name: str, measure: Measure, data: Batches, methods: Sequence[str]) -> Iterator[str]:
    """A line for each target and method."""
    for target in TARGETS:
        for method in methods:
            head = f"insert-qdq{{target={target},everything=true}}"
            step = f"calibrate{{target={target},method={method}}}"
            cells, report = measure.of(f"{head},{step},pack-weights{{target={target}}}", data)
            seconds = _seconds(measure.graph, head, step, data)
            notes = report.of("calibrate").notes
            won = notes[1].partition("samples: ")[2] if len(notes) > 1 else ""
            yield f"| {name} | {target} | {method} | {cells} | {seconds:.2f} | {won} |"


def _seconds(graph: go.Graph, head: str, step: str, data: Batches) -> float:
    twin = graph.clone()
    go.optimize(twin, head, data[:1], check=False)
    started = time.process_time()
    go.optimize(twin, step, data, check=False)
    return time.process_time() - started


def correction(name: str, measure: Measure, data: Batches, folder: Path) -> Iterator[str]:
    """A line for each kind of weight."""
    for bits, per_channel in WEIGHTS:
        target = folder / f"w{bits}{per_channel}.toml"
        target.write_text(
            f'extends = "generic"\nname = "low"\ndoc = "Few bits."\n[weight]\nbits = {bits}\n'
            f"per_channel = {str(per_channel).lower()}\n"
        )
        given = f'target="{target}"'
        cells, left = [], ""
        for method in CORRECTIONS:
            step = "" if method == "none" else f"correct-bias{{method={method},batches=20}},"
            pipeline = f"insert-qdq{{{given},everything=true}},calibrate{{{given}}},{step}pack-weights{{{given}}}"
            found, report = measure.of(pipeline, data)
            cells.append(" | ".join(found.split(" | ")[::2]))
            left = "; ".join(report.of("correct-bias").notes) if method == "analytic" else left
        scale = "channel" if per_channel else "tensor"
        yield f"| {name} | {bits} | {scale} | {' | '.join(cells)} | <!-- {left} -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=["resnet20", "mobilenet_v2", "mobilenet_v3"])
    parser.add_argument("--images", type=int, default=500, help="calibration images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = read(options.data, "train", options.images)[0].contiguous()
    data = [(train[i : i + BATCH],) for i in range(0, len(train), BATCH)]
    x, y = (each.numpy() for each in read(options.data, "t10k", options.test))
    names = [name for name in options.models if checkpoint(options.checkpoints, name, 0).exists()]
    measures = {name: Measure(load(options.checkpoints, name), x, y) for name in names}
    print("| network | target | method | top-1 % | change | SQNR, dB | CPU s | chosen |\n|" + " --- |" * 8)
    for name, measure in measures.items():
        print(f"<!-- {name}: float {measure.top1(measure.wanted):.2f} % -->")
        for line in calibration(name, measure, data, options.methods):
            print(line, flush=True)
    heads = " | ".join(f"{method}, % | dB" for method in CORRECTIONS)
    print(f"\n| network | bits | scale per | {heads} |\n|" + " --- |" * 9)
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in measures.items():
            for line in correction(name, measure, data, Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
