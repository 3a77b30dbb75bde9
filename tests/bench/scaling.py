"""Scaling: load, ``simplify,fuse`` and save of residual chains, beside torch.fx and onnxscript.

Run by hand: ``python -m tests.bench.scaling``. Prints a Markdown table of CPU seconds (which others on the
machine do not spoil; all of it runs on one thread) and the growth exponents.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnxscript.rewriter import pattern, rewrite
from torch import fx, nn

import graphopt as go
from tests.bench.chains import residual_chain


def ours(path: Path, out: Path) -> tuple[float, float]:
    """graphopt, from file to file, every pass verified (numerical checks off, as the peers have none).

    Returns the seconds of the whole and of the pipeline alone.
    """
    started = time.process_time()
    graph = go.load(path)
    loaded = time.process_time()
    go.optimize(graph, "simplify,fuse", check=False)
    optimised = time.process_time()
    go.save(graph, out)
    saved = time.process_time()
    left = sum(1 for node in graph.nodes if node.op in ("BatchNormalization", "Identity"))
    assert left == 0, f"{left} nodes were not fused"
    return saved - started, optimised - loaded


def fx_module(nodes: int) -> fx.GraphModule:
    """A chain of about `nodes` fx nodes."""
    graph = fx.Graph()
    value = graph.placeholder("x")
    for _ in range(-(-nodes // 4)):
        inner = graph.call_function(torch.neg, (graph.call_function(torch.neg, (value,)),))
        value = graph.call_function(torch.add, (graph.call_function(torch.relu, (inner,)), value))
    graph.output(value)
    return fx.GraphModule(nn.Module(), graph)


def torch_fx(module: fx.GraphModule) -> None:
    """torch.fx.replace_pattern of one pattern, in memory."""
    fx.replace_pattern(module, lambda x: torch.neg(torch.neg(x)), lambda x: x)


class DropIdentity(pattern.RewriteRuleClassBase):
    """onnxscript's rule for Identity."""

    def pattern(self, op, x):
        return op.Identity(x)

    def rewrite(self, op, x):
        return op.Relu(x)


def onnxscript(path: Path, out: Path) -> None:
    """onnxscript's rewriter with one rule, from file to file."""
    onnx.save(rewrite(onnx.load(path), pattern_rewrite_rules=[DropIdentity.rule()]), out)


def seconds(function: Callable[..., None], *arguments: object) -> float:
    """CPU time of one call."""
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def exponent(sizes: list[int], times: list[float]) -> float:
    """Growth exponent between the first and the last size."""
    return math.log(times[-1] / times[0]) / math.log(sizes[-1] / sizes[0])


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3000, 10000, 30000, 100000])
    parser.add_argument("--most", type=int, default=30000, help="nodes that the peers are given at most")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            path, out = Path(folder) / f"{size}.onnx", Path(folder) / "out.onnx"
            onnx.save(residual_chain(size), path)
            whole, inside = ours(path, out)
            rows.setdefault("graphopt: load, simplify,fuse, save", []).append(whole)
            rows.setdefault("graphopt: simplify,fuse in memory", []).append(inside)
            print(f"<!-- {size}: {whole:.2f}, {inside:.2f} -->", flush=True)
            if arguments.peers and size <= arguments.most:
                module = fx_module(size)
                rows.setdefault("torch.fx.replace_pattern", []).append(seconds(torch_fx, module))
                rows.setdefault("onnxscript.rewriter", []).append(seconds(onnxscript, path, out))
    print("| seconds | " + " | ".join(f"{s:,} nodes" for s in arguments.sizes) + " | growth exponent |")
    print("| --- |" + " --- |" * (len(arguments.sizes) + 1))
    for name, times in rows.items():
        cells = [f"{t:.2f}" for t in times] + ["-"] * (len(arguments.sizes) - len(times))
        print(f"| {name} | {' | '.join(cells)} | {exponent(arguments.sizes[: len(times)], times):.2f} |")


if __name__ == "__main__":
    main()
