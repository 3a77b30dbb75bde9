"""Accuracy after pruning on Fashion-MNIST, beside Torch-Pruning: the same networks, data, training and budgets.

Run by hand, with checkpoints of ``tests.bench.fashion`` (which are trained first where they are missing): unpack
Debian's ``dataset-fashion-mnist`` (``dpkg -x``), install ``torch-pruning==1.6.1`` into a folder (``--no-deps
--target``), then

    python -m tests.bench.prune_quality --data DIR --checkpoints DIR --peer DIR [--model resnet20] [--tune 3]

Prints a Markdown table: accuracy (mean and spread over seeds) of the dense network, and of what each criterion leaves
at each budget of multiply-accumulates, before and after fine-tuning. A seed is that of fine-tuning and criteria.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.passes.prune import PruneChannels
from graphopt.passes.prune.plan import Scope
from tests.bench.fashion import BATCH, NETWORKS, Images, accuracy, read, train, trained

BUDGETS = (0.5, 0.25)
OURS = ("l1", "l2", "taylor", "hessian", "obd-c", "fpgm", "bn-scale", "lamp", "activation", "wanda", "random")
PEERS = ("GroupMagnitudeImportance", "GroupTaylorImportance")
ITERATIVE = ("graphopt taylor", "Torch-Pruning GroupTaylorImportance")
SCORED = 8  # batches that criteria read


#: Prunes a module to a part of its multiply-accumulates, with a seed.
Way: TypeAlias = Callable[[nn.Module, float, int], nn.Module]
#: Trains a module for a number of epochs.
Tune: TypeAlias = Callable[[nn.Module, int], None]


def captured(module: nn.Module) -> go.Graph:
    return go.capture(module, (torch.randn(2, 3, 28, 28),), dynamic=[{0: "batch"}])


def macs_of(module: nn.Module) -> int:
    return Cost(captured(module)).macs


def ours(
    criterion: str, module: nn.Module, target: float, data: Images, seed: int, scope: Scope = "global"
) -> nn.Module:
    """The module that graphopt leaves; labelled batches for the criteria that want them."""
    graph = captured(module)
    batches = list(zip(data[0].split(BATCH), data[1].split(BATCH), strict=True))[:SCORED]
    step = PruneChannels(criterion=criterion, scope=scope, macs=target)
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


def main() -> None:
    options = _arguments()
    torch.set_num_threads(options.threads)
    training, test = read(options.data, "train"), read(options.data, "t10k")
    dense = trained(options.checkpoints, options.model, 0, training, test)
    for p in dense.parameters():
        p.requires_grad_()
    training = (training[0][: options.train], training[1][: options.train])
    own = NETWORKS[options.model].recipe
    recipe = replace(own, lr=0.3 * own.lr, small=0.6 if own.small else 0.0)
    whole, ways = macs_of(dense), _ways(options, training)
    found: dict[str, list[tuple[float, float]]] = {}
    started = time.perf_counter()
    for seed in range(options.seeds):

        def tune(module: nn.Module, epochs: int, seed: int = seed) -> None:
            teacher = dense if options.distil else None
            train(module, training, replace(recipe, epochs=epochs), seed, teacher=teacher)

        for target in options.budgets:
            for name, prune in _schedules(options, ways, tune, seed).items():
                pruned, before = prune(dense, target, test)
                after = accuracy(pruned, test)
                found.setdefault(f"{name} | {1 / target:g}x", []).append((before, after))
                left = macs_of(pruned) / whole
                print(f"# seed {seed} {name} {left:.3f} of the MACs: {before:.2f}, {after:.2f}", flush=True)
    print(f"\n{options.model}, dense {accuracy(dense, test):.2f} %, {options.tune} epochs on {len(training[0])} "
          f"images, {time.perf_counter() - started:.0f} s\n\n| | fewer MACs | at once % | tuned % | spread |\n"
          "| --- | --- | --- | --- | --- |")  # fmt: skip
    for name, values in found.items():
        (before, after) = (list(each) for each in zip(*values, strict=True))
        print(
            f"| {name} | {statistics.mean(before):.2f} | {statistics.mean(after):.2f} | {max(after) - min(after):.2f} |"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--peer", help="folder that torch-pruning is installed in")
    parser.add_argument("--model", choices=["resnet20", "mobilenet_v2", "vit"], default="resnet20")
    parser.add_argument("--tune", type=int, default=3, help="epochs of fine-tuning")
    parser.add_argument("--steps", type=int, default=3, help="of the iterative schedule")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=60000, help="images to fine-tune on")
    parser.add_argument("--criteria", nargs="*", default=OURS)
    parser.add_argument("--scope", choices=["global", "uniform", "isomorphic"], default="global", help="of graphopt")
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--one-shot", action="store_true", help="leave the iterative schedule out")
    parser.add_argument("--distil", action="store_true", help="the dense network gives soft labels while tuning")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _ways(options: argparse.Namespace, data: Images) -> dict[str, Way]:
    """What prunes a module to a part of its multiply-accumulates, with a seed."""
    ways: dict[str, Way] = {
        f"graphopt {name}": lambda m, t, s, name=name: ours(name, m, t, data, s, options.scope)
        for name in options.criteria
    }
    if options.peer:
        sys.path.insert(0, options.peer)
        peer = import_module("torch_pruning")
        ways |= {f"Torch-Pruning {name}": lambda m, t, s, name=name: theirs(peer, name, m, t, data) for name in PEERS}
    return ways


def _schedules(
    options: argparse.Namespace, ways: dict[str, Way], tune: Tune, seed: int
) -> dict[str, Callable[[nn.Module, float, Images], tuple[nn.Module, float]]]:
    """The ways at once, and some of them in steps."""
    found = {name: partial(_once, way, tune, options.tune, seed) for name, way in ways.items()}
    for name in [each for each in ITERATIVE if each in ways and not options.one_shot]:
        found[f"{name}, {options.steps} steps"] = partial(
            _stepwise, ways[name], tune, options.tune, options.steps, seed
        )
    return found


def _once(
    way: Way, tune: Tune, epochs: int, seed: int, dense: nn.Module, target: float, test: Images
) -> tuple[nn.Module, float]:  # fmt: skip
    """The network pruned at once and tuned, and its accuracy before tuning."""
    pruned = way(dense, target, seed)
    before = accuracy(pruned, test)
    tune(pruned, epochs)
    return pruned, before


def _stepwise(
    way: Way, tune: Tune, epochs: int, steps: int, seed: int, dense: nn.Module, target: float, test: Images
) -> tuple[nn.Module, float]:  # fmt: skip
    """The same in equal steps with the epochs shared out among them; the accuracy is that before the last tuning."""
    module, before = dense, 0.0
    for number in range(steps):
        module = way(module, target ** (1 / steps), seed)
        before = accuracy(module, test)
        tune(module, epochs // steps + (epochs % steps if number == steps - 1 else 0))
    return module, before


if __name__ == "__main__":
    main()
