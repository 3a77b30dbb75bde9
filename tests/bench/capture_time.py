"""What capture costs beside torch's own exporters: ResNet-50 and BERT-base.

Run by hand: ``python -m tests.bench.capture_time``. Prints a Markdown table of medians, all taken in turn in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

import graphopt as go
from graphopt.models.bert import bert_base
from graphopt.models.resnet import resnet50

MODELS: dict[str, tuple[Callable[..., tuple[torch.nn.Module, tuple[Any, ...]]], tuple[str, ...]]] = {
    "ResNet-50": (resnet50, ("batch",)),
    "BERT-base": (bert_base, ("batch", "seq")),
}


def ways(
    module: torch.nn.Module, args: tuple[torch.Tensor, ...], names: tuple[str, ...]
) -> dict[str, Callable[[], Any]]:
    """What is timed, by name: torch's exporters and ours, with the same open dimensions."""
    named = [dict(enumerate(names)) for _ in args]
    shapes = tuple(dict.fromkeys(each, torch.export.Dim.DYNAMIC) for each in named)

    def export() -> Any:
        return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)

    def onnx_export() -> Any:
        return torch.onnx.export(module, args, dynamo=True, dynamic_shapes=shapes, verbose=False)

    return {
        "torch.export.export": export,
        "capture": lambda: go.capture(module, args, dynamic=named),
        "torch.onnx.export": onnx_export,
        "capture + to_onnx": lambda: go.to_onnx(go.capture(module, args, dynamic=named)),
    }


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call, without garbage of the calls before it."""
    gc.collect()
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def medians(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median time of each function; a first round, which loads and caches, does not count."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                taken = seconds(function)
            if round_:
                times[name].append(taken)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    print("| model | torch.export.export | capture | ratio | torch.onnx.export | capture + to_onnx | ratio |")
    print("| --- |" + " ---: |" * 6)
    for name, (build, names) in MODELS.items():
        module, args = build(batch=2)
        found = list(medians(ways(module.eval(), args, names), arguments.rounds).values())
        cells = []
        for theirs, ours in ((found[0], found[1]), (found[2], found[3])):
            cells += [f"{theirs:.2f} s", f"{ours:.2f} s", f"{ours / theirs:.2f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
