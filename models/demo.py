"""The main job, from end to end on real input: ``make demo``.

A residual network trained on scikit-learn's digits is captured, pruned, fine-tuned, fused, quantized and written as
ONNX. After every step the file is measured in ONNX Runtime: accuracy on the held-out images, and latency.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.models.digits import Digits, data, digits
from graphopt.runtime.ort import OrtSession, kernel_counts
from graphopt.runtime.timing import medians

CALIBRATION_SAMPLES = 512
LATENCY_BATCH = 32

#: One entry per step: the pipeline that leads to it from the step before.
STEPS = (
    ("original", ""),
    ("pruned", "prune-channels{ratio=0.5,criterion=l2}"),
    ("pruned + fine-tuned", "finetune{epochs=12,lr=0.002,alpha=0.5}"),
    ("fused", "simplify,fuse"),
    ("int8", f"quantize{{target=ort-cpu,sizes={{batch:{LATENCY_BATCH}}}}}"),
)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    weights: int
    macs: int
    bytes: int
    accuracy: float
    path: Path


class TrainingBatches:
    """Shuffled batches of the training images, shifted by up to a pixel, the same in every run."""

    def __init__(self, samples: Digits, batch_size: int = 64) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        order = torch.randperm(len(self.samples.train_x), generator=generator)
        for chosen in torch.tensor_split(order, tuple(range(self.batch_size, len(order), self.batch_size))):
            shifts = torch.randint(-1, 2, (2,), generator=generator).tolist()
            images = torch.nn.functional.pad(self.samples.train_x[chosen], (1, 1, 1, 1))
            top, left = 1 + shifts[0], 1 + shifts[1]
            yield images[:, :, top : top + 8, left : left + 8].contiguous(), self.samples.train_y[chosen]


def accuracy(path: Path, samples: Digits) -> float:
    """Part of the held-out images that the file gets right in ONNX Runtime."""
    logits = OrtSession(path).run([samples.test_x])[0]
    return float((torch.from_numpy(logits).argmax(1) == samples.test_y).float().mean())


def run_step(graph: go.Graph, pipeline: str, samples: Digits, teacher: torch.nn.Module) -> go.Report | None:
    """Runs one step's pipeline on the data that it needs."""
    if not pipeline:
        return None
    if pipeline.startswith("quantize"):
        return go.optimize(graph, pipeline, [samples.train_x[:CALIBRATION_SAMPLES]], progress=True)
    return go.optimize(graph, pipeline, TrainingBatches(samples), teacher=teacher, progress=True)


def measure(name: str, graph: go.Graph, path: Path, samples: Digits) -> Row:
    """Writes the graph and measures the file."""
    go.save(graph, path)
    cost = Cost(graph)
    return Row(name, cost.weights, cost.macs, path.stat().st_size, accuracy(path, samples), path)


def table(rows: list[Row], latency: dict[str, float]) -> Table:
    """The before/after table; factors are against the first row."""
    result = Table(title="digits: 8x8 images, 10 classes, 360 held out", title_justify="left")
    result.add_column("model")
    for column in ("parameters", "MACs", "file", "accuracy", f"latency (batch {LATENCY_BATCH})"):
        result.add_column(column, justify="right")
    first = rows[0]
    for row in rows:
        result.add_row(
            row.name,
            f"{row.weights:,} ({first.weights / row.weights:.1f}x)",
            f"{row.macs:,} ({first.macs / row.macs:.1f}x)",
            f"{row.bytes / 1024:.1f} KiB ({first.bytes / row.bytes:.1f}x)",
            f"{row.accuracy:.2%}",
            f"{latency[row.name] * 1e3:.2f} ms ({latency[first.name] / latency[row.name]:.1f}x)",
        )
    return result


def run(folder: Path) -> tuple[list[Row], dict[str, float]]:
    """Runs all steps and writes a file for each.

    Returns:
        a row per step, and the median latency in seconds by row name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = data()
    module, example = digits()
    graph = go.capture(module, example, dynamic={"x": {0: "batch"}})
    rows = []
    for number, (name, pipeline) in enumerate(STEPS):
        report = run_step(graph, pipeline, samples, module)
        if report is not None:
            Console(stderr=True, soft_wrap=True).print(str(report), highlight=False, markup=False)
        slug = name.replace(" + ", "-").replace(" ", "-")
        rows.append(measure(name, graph, folder / f"digits-{number}-{slug}.onnx", samples))
    batch = samples.test_x[:LATENCY_BATCH]
    sessions = {row.name: OrtSession(row.path) for row in rows}
    calls = {name: (lambda session=session: session.run([batch])) for name, session in sessions.items()}
    return rows, medians(calls, repeats=100, warmup=10)


def main() -> None:
    """Command line of the demo."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the ONNX files")
    folder = parser.parse_args().out
    # So small a network gains nothing from threads, and loses much where other programs are using the cores.
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows, latency = run(folder)
    console = Console(width=120)
    console.print(table(rows, latency))
    kernels = kernel_counts(rows[-1].path)
    integer = ", ".join(f"{count} {op}" for op, count in kernels.most_common() if op.startswith("Q"))
    console.print(f"ONNX Runtime runs the last file as: {integer}", highlight=False)
    for row in rows:
        console.print(f"wrote {row.path}", highlight=False)
    console.print(f"{time.perf_counter() - started:.0f} s", highlight=False)


if __name__ == "__main__":
    main()
