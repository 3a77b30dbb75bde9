"""Captured models of the zoo after ``simplify,fuse``, emitted as torch: nodes and eager latency on the CPU.

Run by hand: ``python -m tests.bench.simplify_torch``. Beside them the module as it is, and what
``torch.fx.experimental.optimization.fuse`` makes of it where torch.fx can trace it (it folds BatchNormalization into
convolutions). One thread; medians of the CPU time of calls that take turns. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.models import ZOO, build
from tests.bench.cpu_time import cpu_medians

_SKIPPED = frozenset({"placeholder", "output", "get_attr"})


def node_count(module: fx.GraphModule) -> int:
    """Calls in a traced module."""
    return sum(node.op not in _SKIPPED for node in module.graph.nodes)


def operators(module: nn.Module, args: Sequence[Any]) -> int:
    """Operators in a module, as torch.export sees them."""
    return node_count(torch.export.export(module, tuple(args), strict=False).graph_module)


def fused_by_fx(module: nn.Module) -> nn.Module | None:
    """The module fused by torch.fx; ``None`` where it cannot."""
    try:
        return fuse(module)
    except Exception:  # torch.fx raises whatever comes its way
        return None


def error(got: Any, want: Any) -> float:
    """Largest difference of any output, relative to its largest number."""
    pairs = zip(_tensors(got), _tensors(want), strict=True)
    return max((float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs), default=0.0)


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def row(name: str, rounds: int) -> tuple[list[str], float, float | None]:
    """A line of the table, and the latency over that of the module and of torch.fx's."""
    module, args = build(name)
    module.eval()
    graph = go.capture(module, args)
    go.optimize(graph, "simplify,fuse", check=False)
    ours, theirs = go.to_torch(graph), fused_by_fx(module)
    calls: dict[str, Callable[[], Any]] = {"module": lambda: module(*args), "ours": lambda: ours(*args)}
    if theirs is not None:
        calls["fx"] = lambda: theirs(*args)
    with torch.no_grad():
        off = error(ours(*args), module(*args))
        times = cpu_medians(calls, rounds)
    cells = [
        name, str(operators(module, args)), str(operators(ours, args)),
        "-" if theirs is None else str(operators(theirs, args)), f"{times['module']:.2f}", f"{times['ours']:.2f}",
        f"{times['fx']:.2f}" if "fx" in times else "-", f"{times['ours'] / times['module']:.2f}", f"{off:.0e}",
    ]  # fmt: skip
    return cells, times["ours"] / times["module"], times["ours"] / times["fx"] if "fx" in times else None


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models of the zoo; all by default")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| model | operators | simplify,fuse | torch.fx fuse | ms | simplify,fuse | torch.fx fuse | ratio | error |")
    print("|" + " --- |" * 9)
    found = []
    for name in arguments.names or ZOO:
        cells, *ratios = row(name, arguments.rounds)
        print("| " + " | ".join(cells) + " |", flush=True)
        found.append(ratios)
    beside = [fx for _, fx in found if fx is not None]
    print(f"\nLatency over the module's: median {statistics.median(mine for mine, _ in found):.2f}x,"
          f" worst {max(mine for mine, _ in found):.2f}x; over torch.fx's: median"
          f" {statistics.median(beside or [0.0]):.2f}x, worst {max(beside, default=0.0):.2f}x.")  # fmt: skip


if __name__ == "__main__":
    main()
