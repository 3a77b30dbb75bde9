"""What pruning is worth in time: ResNet-20 and MobileNetV2 in ONNX Runtime, beside the MACs that are left.

Run by hand: ``python -m tests.bench.prune_latency``. Prints a Markdown table. One thread, batch 1, all models of a
network timed turn by turn in one run, after ``simplify,fuse``; the fastest run of each, as load only ever adds. Widths
rounded to multiples of 8 and 16 are shown beside those that are not, at the same budget.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.errors import PassError
from graphopt.models.mobilenet import mobilenet_v2_x1
from graphopt.models.resnet import resnet20
from graphopt.runtime.ort import OrtSession

MACS = (0.75, 0.5, 0.25)
ROUND_TO = (1, 8, 16)
COLUMNS = ("network", "MACs asked for", "round-to", "MACs left", "fewer MACs", "ms", "speed-up")


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "ResNet-20": partial(resnet20, batch=1),
    "MobileNetV2": mobilenet_v2_x1,
}


def rows(name: str, repeats: int) -> list[list[str]]:
    """The lines of one network."""
    module, args = NETWORKS[name]()
    original = go.capture(module, args)
    sessions: dict[tuple[float, int], OrtSession] = {}
    macs: dict[tuple[float, int], int] = {}
    for target, multiple in [(1.0, 1), *((macs, multiple) for macs in MACS for multiple in ROUND_TO)]:
        graph = original.clone()
        prune = f"prune-channels{{macs={target},scope=global,round-to={multiple}}}," if target < 1 else ""
        try:
            go.optimize(graph, f"{prune}simplify,fuse", check=False)
        except PassError:  # with few channels, multiples of 16 leave too much
            continue
        sessions[target, multiple] = OrtSession(go.to_onnx(graph))
        macs[target, multiple] = Cost(graph).macs
    feed = [each.numpy() for each in args]
    times = dict.fromkeys(sessions, float("inf"))
    for _ in range(repeats):
        for key, session in sessions.items():
            started = time.perf_counter()
            session.run(feed)
            times[key] = min(times[key], time.perf_counter() - started)
    whole, start = macs[1.0, 1], times[1.0, 1]
    return [
        [
            name, f"{key[0]:g}", str(key[1]), f"{macs[key]:,}", f"{whole / macs[key]:.2f}x",
            f"{1e3 * times[key]:.3f}", f"{start / times[key]:.2f}x",
        ]
        for key in sessions
    ]  # fmt: skip


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=101)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    for name in NETWORKS:
        for cells in rows(name, arguments.repeats):
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
