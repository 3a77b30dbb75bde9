"""Load and save of a file of 30,000 nodes, beside onnx_ir.

Run by hand: ``python -m tests.bench.load_save``. The runs alternate; prints medians as a Markdown table. onnx_ir writes
the message and no more; graphopt upgrades, chooses an opset and runs ONNX's full checker over what it writes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir

import graphopt as go
from tests.bench.chains import residual_chain


def ours(path: Path, out: Path) -> None:
    """graphopt, with everything that it does for its callers."""
    go.save(go.load(path), out)


def theirs(path: Path, out: Path) -> None:
    """onnx_ir."""
    onnx_ir.save(onnx_ir.load(path), out)


def checked(path: Path, out: Path) -> None:
    """onnx_ir, and the check that graphopt makes."""
    onnx_ir.save(onnx_ir.load(path), out)
    onnx.checker.check_model(out, full_check=True)


def seconds(function: Callable[[Path, Path], None], path: Path, out: Path) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    function(path, out)
    return time.perf_counter() - started


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=30000)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {"graphopt": [], "onnx_ir": [], "onnx_ir and checker": []}
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        onnx.save(residual_chain(arguments.nodes), path)
        for _ in range(arguments.runs):
            for name, function in zip(times, (ours, theirs, checked), strict=True):
                times[name].append(seconds(function, path, out))
    reference = statistics.median(times["onnx_ir"])
    print("| load, save | median s | of onnx_ir |\n| --- | --- | --- |")
    for name, found in times.items():
        median = statistics.median(found)
        print(f"| {name} | {median:.2f} | {median / reference:.2f}x |")


if __name__ == "__main__":
    main()
