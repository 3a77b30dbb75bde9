"""Planning and pruning beside Torch-Pruning, model by model, in one run.

Run by hand: ``pip install --no-deps --target DIR torch-pruning==1.6.1``, then
``python -m tests.bench.prune_speed --peer DIR [--full] [MODEL ...]``. Prints a Markdown table.

Ours: ``prune-channels{ratio=0.5}`` on a captured graph, coupling included, with and without the capture. Theirs:
building the pruner (which traces the module) and one step, at the same ratio and with the magnitude importance, the
layer of the output ignored. The numerical checks are off on our side, as the peer has none.

Both take turns, on one thread, in CPU time, with the garbage collector off while the clock runs (ours holds it anyway);
every turn of ours begins with a fresh capture.
"""

from __future__ import annotations

import argparse
import copy
import gc
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
from graphopt.ir import Graph
from graphopt.models import ZOO, build
from graphopt.models.densenet import DenseNet
from graphopt.pipeline import Changes, Context, Pass, run_pipeline
from graphopt.pipeline.instruments import CostDelta, Instrument, Verify
from graphopt.pipeline.report import PassReport

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
    """CPU seconds of one model; the peer's are none where it fails, and `why` says how.

    `export` is torch.export alone, a part of the capture; `alone` the pass without the verification of the graph and
    the cost figures that `prune` includes.
    """

    name: str
    export: float
    capture: float
    alone: float
    prune: float
    peer: float | None = None
    why: str = ""


class Clock(Instrument):
    """Notes the CPU time at which the instruments before it have run, and those after it have not."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0

    def before(self, step: Pass, graph: Graph, context: Context, entry: PassReport) -> None:
        self.started = time.process_time()

    def after(self, step: Pass, graph: Graph, context: Context, changes: Changes, entry: PassReport) -> None:
        self.ended = time.process_time()


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps the garbage collector off, after it has done what there is to do."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def ours(module: nn.Module, args: tuple[Any, ...]) -> tuple[float, float, float, float]:
    """Seconds of torch.export, of the capture, of the pass, and of it with verification and cost figures."""
    with uncollected():
        begun = time.process_time()
        torch.export.export(module, args, strict=False)
        started = time.process_time()
        graph = go.capture(module, args)
        captured = time.process_time()
    outer, inner = Clock(), Clock()  # the first to be told of the end, and the last to be told of the beginning
    with uncollected():
        ready = time.process_time()
        run_pipeline(graph, "prune-channels{ratio=0.5}", Context(graph), [outer, Verify(), CostDelta(), inner])
        pruned = time.process_time()
    return started - begun, captured - started, outer.ended - inner.started, pruned - ready


def theirs(peer: Any, module: nn.Module, args: tuple[Any, ...]) -> tuple[float, nn.Module]:
    """Seconds of build and step, and what comes out."""
    twin = copy.deepcopy(module)
    layers = [each for each in twin.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    with redirect_stdout(StringIO()), uncollected():
        started = time.process_time()
        pruner = peer.pruner.BasePruner(
            twin, args, importance=peer.importance.GroupMagnitudeImportance(p=1), pruning_ratio=0.5,
            ignored_layers=layers[-1:],
        )  # fmt: skip
        pruner.step()
        return time.process_time() - started, twin


def judge(module: nn.Module, twin: nn.Module, args: tuple[Any, ...]) -> None:
    """Raises RuntimeError when the peer's result does not run, has other outputs, or is not pruned."""
    sizes = [[tuple(leaf.shape) for leaf in pytree.tree_leaves(each(*args)) if isinstance(leaf, torch.Tensor)]
             for each in (module, twin)]  # fmt: skip
    if sizes[0] != sizes[1]:
        raise RuntimeError(f"outputs {sizes[1]} instead of {sizes[0]}")
    before, after = (sum(p.numel() for p in each.parameters()) for each in (module, twin))
    if after > 0.95 * before:
        raise RuntimeError("comes back unpruned")


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
    """Medians of as many turns; one more, which comes first, warms both up where there is more than one."""
    module, args = made()
    mine, other, why = [], [], ""
    for _ in range(repeats + (repeats > 1)):
        mine.append(ours(module, args))
        if why:
            continue
        try:
            with limited(LIMIT):
                seconds, twin = theirs(peer, module, args)
                judge(module, twin, args)
                other.append(seconds)
        except Exception as error:  # the peer fails in many ways; each is a finding
            why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:70]
    warm = slice(repeats > 1, None)
    row = Row(name, *(statistics.median(each) for each in zip(*mine[warm], strict=True)), why=why)
    row.peer = None if why else statistics.median(other[warm])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--peer", required=True, help="folder that torch-pruning is installed in")
    parser.add_argument("--full", action="store_true", help="full-size models as well")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.path.insert(0, options.peer)
    peer = import_module("torch_pruning")
    torch.set_num_threads(1)
    every = {name: partial(build, name) for name in ZOO} | (FULL if options.full or options.models else {})
    ours(*build("lenet"))  # imports and caches are nobody's cost
    print(
        "| model | export s | capture s | pass s | with checks s | Torch-Pruning s | pass | with checks | and capture |"
    )
    print("|" + " --- |" * 9)
    ratios: dict[str, list[float]] = {"pass": [], "with checks": [], "and capture": [], "torch.export alone": []}
    for name in options.models or every:
        row = measure(peer, name, every[name], options.repeats)
        text = f"| {name} | {row.export:.2f} | {row.capture:.2f} | {row.alone:.4f} | {row.prune:.4f} | "
        if row.peer is None:
            print(text + f"{row.why} | | | |", flush=True)
            continue
        for which, seconds in zip(ratios, (row.alone, row.prune, row.prune + row.capture, row.export), strict=True):
            ratios[which].append(seconds / row.peer)
        shown = " | ".join(f"{values[-1]:.2f}" for values in list(ratios.values())[:3])
        print(text + f"{row.peer:.4f} | {shown} |", flush=True)
    for what, values in ratios.items() if ratios["pass"] else ():
        print(f"\n{what}, {len(values)} models: median {statistics.median(values):.2f}, worst {max(values):.2f}")


if __name__ == "__main__":
    main()
