"""Planning and pruning beside Torch-Pruning, model by model, in one run.

Run by hand: ``pip install --no-deps --target DIR torch-pruning==1.6.1``, then
``python -m tests.bench.prune_speed --peer DIR [--full] [MODEL ...]``. Prints a Markdown table.

Ours: ``prune-channels{ratio=0.5}`` on a captured graph, coupling included, with and without the capture. Theirs:
building the pruner (which traces the module) and one step, at the same ratio and with the magnitude importance, the
layer of the output ignored. The numerical checks are off on our side, as the peer has none.
"""

from __future__ import annotations

import argparse
import copy
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.models import ZOO, build
from graphopt.models.densenet import DenseNet

LIMIT = 150  # seconds for one attempt of the peer

FULL: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    name: (lambda file=file, name=name: getattr(import_module(f"graphopt.models.{file}"), name)())
    for file, name in (
        ("resnet", "resnet50"), ("resnet", "resnext50"), ("densenet", "densenet121"), ("mobilenet", "mobilenet_v2_x1"),
        ("efficientnet", "efficientnet_b0"), ("shufflenet", "shufflenet_v2_x1"), ("regnet", "regnet_y_400mf"),
        ("vit", "vit_base"), ("swin", "swin_tiny"), ("convnext", "convnext_tiny"), ("squeezenet", "squeezenet1_1"),
    )
}  # fmt: skip


def densenet201() -> tuple[nn.Module, tuple[Any, ...]]:
    """DenseNet with 200 convolutions (Huang et al., CVPR 2017)."""
    return DenseNet((6, 12, 48, 32)).eval(), (torch.randn(1, 3, 224, 224),)


FULL["densenet201"] = densenet201


@dataclass
class Row:
    """Seconds of one model; the peer's are none where it fails, and `why` says how.

    `export` is torch.export alone, a part of the capture; `alone` the pass without the verification of the graph and
    the cost figures that `prune` includes.
    """

    name: str
    export: float
    capture: float
    alone: float
    prune: float
    peer: float | None
    why: str = ""


def ours(module: nn.Module, args: tuple[Any, ...], repeats: int) -> tuple[float, float, float, float]:
    """Median seconds of torch.export, of the capture, of the pass, and of it with verification and cost figures."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        torch.export.export(module, args, strict=False)
        started = time.perf_counter()
        graph = go.capture(module, args)
        captured = time.perf_counter()
        report = go.optimize(graph, "prune-channels{ratio=0.5}", check=False)
        pruned = time.perf_counter()
        times.append((started - begun, captured - started, report.passes[0].seconds, pruned - captured))
    export, capture, alone, prune = (statistics.median(each) for each in zip(*times, strict=True))
    return export, capture, alone, prune


def theirs(peer: Any, module: nn.Module, args: tuple[Any, ...], repeats: int) -> float:
    """Median seconds of build and step. Raises RuntimeError when the result does not run or has other outputs."""
    times = []
    for _ in range(repeats):
        twin = copy.deepcopy(module)
        layers = [each for each in twin.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
        with redirect_stdout(StringIO()):
            started = time.perf_counter()
            pruner = peer.pruner.BasePruner(
                twin, args, importance=peer.importance.GroupMagnitudeImportance(p=1), pruning_ratio=0.5,
                ignored_layers=layers[-1:],
            )  # fmt: skip
            pruner.step()
            times.append(time.perf_counter() - started)
    sizes = [[tuple(leaf.shape) for leaf in pytree.tree_leaves(each(*args)) if isinstance(leaf, torch.Tensor)]
             for each in (module, twin)]  # fmt: skip
    if sizes[0] != sizes[1]:
        raise RuntimeError(f"outputs {sizes[1]} instead of {sizes[0]}")
    before, after = (sum(p.numel() for p in each.parameters()) for each in (module, twin))
    if after > 0.95 * before:
        raise RuntimeError("comes back unpruned")
    return statistics.median(times)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError when the block takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measure(peer: Any, name: str, made: Callable[[], Any], repeats: int) -> Row:
    module, args = made()
    row = Row(name, *ours(module, args, repeats), None)
    try:
        with limited(LIMIT * repeats):
            row.peer = theirs(peer, module, args, repeats)
    except Exception as error:  # the peer fails in many ways; each is a finding
        row.why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:70]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--peer", required=True, help="folder that torch-pruning is installed in")
    parser.add_argument("--full", action="store_true", help="full-size models as well")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.path.insert(0, options.peer)
    peer = import_module("torch_pruning")
    torch.set_num_threads(1)
    every = {name: partial(build, name) for name in ZOO} | (FULL if options.full or options.models else {})
    ours(*build("lenet"), 1)  # imports and caches are nobody's cost
    print(
        "| model | export s | capture s | pass s | with checks s | Torch-Pruning s | pass | with checks | and capture |"
    )
    print("|" + " --- |" * 9)
    ratios: dict[str, list[float]] = {"pass": [], "with checks": [], "and capture": [], "torch.export alone": []}
    for name in options.models or every:
        row = measure(peer, name, every[name], options.repeats)
        text = f"| {name} | {row.export:.2f} | {row.capture:.2f} | {row.alone:.3f} | {row.prune:.3f} | "
        if row.peer is None:
            print(text + f"{row.why} | | | |", flush=True)
            continue
        for which, seconds in zip(ratios, (row.alone, row.prune, row.prune + row.capture, row.export), strict=True):
            ratios[which].append(seconds / row.peer)
        shown = " | ".join(f"{values[-1]:.2f}" for values in list(ratios.values())[:3])
        print(text + f"{row.peer:.2f} | {shown} |", flush=True)
    for what, values in ratios.items() if ratios["pass"] else ():
        print(f"\n{what}, {len(values)} models: median {statistics.median(values):.2f}, worst {max(values):.2f}")


if __name__ == "__main__":
    main()
