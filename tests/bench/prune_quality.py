"""Accuracy after pruning on Fashion-MNIST, beside Torch-Pruning: the same networks, data, training and budgets.

Run by hand: unpack Debian's ``dataset-fashion-mnist`` (``dpkg -x``), install ``torch-pruning==1.6.1`` into a folder
(``--no-deps --target``), then

    python -m tests.bench.prune_quality --data DIR --peer DIR [--model resnet20] [--epochs 15] [--tune 8] [--seeds 3]

Prints a Markdown table: accuracy (mean and spread over seeds) of the dense network, and of what each criterion leaves
at each budget of multiply-accumulates, after fine-tuning.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.models.mobilenet import mobilenet_v2
from graphopt.models.resnet import resnet20
from graphopt.passes.prune import PruneChannels

BUDGETS = (0.5, 0.25)
OURS = ("l1", "l2", "taylor", "hessian", "obd-c", "fpgm", "bn-scale", "lamp", "activation", "wanda", "random")
PEERS = ("GroupMagnitudeImportance", "GroupTaylorImportance")
BATCH = 128
SCORED = 8  # batches that criteria read

Images = tuple[torch.Tensor, torch.Tensor]


def read(folder: Path, part: str, count: int) -> Images:
    """Images [N, 3, 28, 28], normalised, and labels [N]."""
    (images,), (labels,) = (list(folder.rglob(f"{part}-{what}-ubyte.gz")) for what in ("images-idx3", "labels-idx1"))
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    x = (torch.from_numpy(pixels.astype(np.float32)) / 255 - 0.286) / 0.353
    y = torch.from_numpy(
        np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)[:count].astype(np.int64)
    )
    return x.expand(-1, 3, -1, -1), y


def train(module: nn.Module, data: Images, epochs: int, lr: float, seed: int) -> None:
    """SGD with momentum, one cosine, flips and shifts: the one recipe for everybody."""
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 1), pct_start=0.1)
    module.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator)[: len(x) // BATCH * BATCH].split(BATCH):
            batch = x[chosen]
            if torch.rand((), generator=generator) < 0.5:
                batch = batch.flip(3)
            dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
            loss = F.cross_entropy(module(batch.roll((dy, dx), (2, 3)).contiguous()), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    module.eval()


@torch.no_grad()
def accuracy(module: nn.Module, data: Images) -> float:
    """Per cent."""
    x, y = data
    hits = [
        (module(part.contiguous()).argmax(1) == want).sum()
        for part, want in zip(x.split(500), y.split(500), strict=True)
    ]
    return 100 * float(sum(int(hit) for hit in hits)) / len(y)


def captured(module: nn.Module) -> go.Graph:
    return go.capture(module, (torch.randn(2, 3, 28, 28),), dynamic=[{0: "batch"}])


def macs_of(module: nn.Module) -> int:
    return Cost(captured(module)).macs


def ours(criterion: str, module: nn.Module, target: float, data: Images, seed: int) -> nn.Module:
    """The module that graphopt leaves: global scope, labelled batches for the criteria that want them."""
    graph = captured(module)
    batches = list(zip(data[0].split(BATCH), data[1].split(BATCH), strict=True))[:SCORED]
    step = PruneChannels(criterion=criterion, scope="global", macs=target)
    go.optimize(graph, [step], [(x.contiguous(), y) for x, y in batches], seed=seed)
    return go.to_torch(graph)


def theirs(peer: Any, name: str, module: nn.Module, target: float, data: Images) -> nn.Module:
    """The module that Torch-Pruning leaves; it has no budget of MACs, so the ratio is found by bisection."""
    whole, example = macs_of(module), torch.randn(2, 3, 28, 28)
    low, high, best = 0.0, 1.0, (float("inf"), module)
    for _ in range(8):
        twin = copy.deepcopy(module)
        for p in twin.parameters():
            p.requires_grad_()
        last = [each for each in twin.modules() if isinstance(each, nn.Linear)][-1]
        with redirect_stdout(StringIO()):
            pruner = peer.pruner.BasePruner(
                twin, example, importance=getattr(peer.importance, name)(), pruning_ratio=(low + high) / 2,
                global_pruning=True, max_pruning_ratio=0.9, ignored_layers=[last],
            )  # fmt: skip
            for x, y in list(zip(data[0].split(BATCH), data[1].split(BATCH), strict=True))[:SCORED]:
                F.cross_entropy(twin(x.contiguous()), y).backward()
            pruner.step()
        twin.zero_grad()
        left = macs_of(twin) / whole
        best = min(best, (abs(left - target), twin), key=lambda each: each[0])
        low, high = ((low + high) / 2, high) if left > target else (low, (low + high) / 2)
    return best[1]


def iterative(
    make: Callable[[nn.Module, float], nn.Module], module: nn.Module, target: float,
    tune: Callable[[nn.Module, int], None], steps: int, epochs: int,
) -> nn.Module:  # fmt: skip
    """Equal steps to the target, fine-tuned between; the epochs are shared out."""
    for number in range(steps):
        module = make(module, target ** (1 / steps))
        tune(module, epochs // steps + (epochs % steps if number == steps - 1 else 0))
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", help="folder that torch-pruning is installed in")
    parser.add_argument("--model", choices=["resnet20", "mobilenet_v2"], default="resnet20")
    parser.add_argument("--epochs", type=int, default=15, help="of the dense network")
    parser.add_argument("--tune", type=int, default=8, help="epochs of fine-tuning")
    parser.add_argument("--steps", type=int, default=4, help="of the iterative schedule")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=60000, help="training images")
    parser.add_argument("--test", type=int, default=10000, help="test images")
    parser.add_argument("--criteria", nargs="*", default=OURS)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training, test = (read(options.data, part, n) for part, n in (("train", options.train), ("t10k", options.test)))
    ways: dict[str, Callable[[nn.Module, float, int], nn.Module]] = {}
    for name in options.criteria:
        ways[f"graphopt {name}"] = lambda m, t, s, name=name: ours(name, m, t, training, s)
    if options.peer:
        sys.path.insert(0, options.peer)
        peer = import_module("torch_pruning")
        for name in PEERS:
            ways[f"Torch-Pruning {name}"] = lambda m, t, s, name=name: theirs(peer, name, m, t, training)
    found: dict[str, list[float]] = {}
    started = time.perf_counter()
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        dense, _ = {"resnet20": resnet20, "mobilenet_v2": mobilenet_v2}[options.model](size=28)
        for p in dense.parameters():
            p.requires_grad_()
        train(dense, training, options.epochs, 0.1, seed)
        found.setdefault("dense", []).append(accuracy(dense, test))
        whole = macs_of(dense)

        def tune(module: nn.Module, epochs: int, seed: int = seed) -> None:
            train(module, training, epochs, 0.02, seed)

        for target in BUDGETS:
            for name, way in ways.items():
                pruned = way(dense, target, seed)
                left = macs_of(pruned) / whole
                tune(pruned, options.tune)
                found.setdefault(f"{name}, {1 / target:g}x", []).append(accuracy(pruned, test))
                print(f"# seed {seed} {name} {left:.3f} of the MACs: {accuracy(pruned, test):.2f}", flush=True)
            for name in [each for each in ways if each in ("graphopt taylor", "Torch-Pruning GroupTaylorImportance")]:
                step = lambda m, t, way=ways[name], seed=seed: way(m, t, seed)  # noqa: E731
                pruned = iterative(step, dense, target, tune, options.steps, options.tune)
                found.setdefault(f"{name}, {1 / target:g}x, {options.steps} steps", []).append(accuracy(pruned, test))
    print(f"\n{options.model}, {options.train} images, {options.epochs} + {options.tune} epochs, "
          f"{time.perf_counter() - started:.0f} s\n\n| | accuracy % | spread |\n| --- | --- | --- |")  # fmt: skip
    for name, values in found.items():
        print(f"| {name} | {statistics.mean(values):.2f} | {max(values) - min(values):.2f} |")


if __name__ == "__main__":
    main()
