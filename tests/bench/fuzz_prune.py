"""Thousands of random networks, pruned at random: each result is held to the masked original.

Run by hand: ``python -m tests.bench.fuzz_prune [--count 2000] [--seed 0]``. Prints what was done and every failure,
with the number that reproduces it (``--first N --count 1``); exits with 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

import torch

import graphopt as go
from graphopt.analysis import propagate_all
from graphopt.analysis.cost import Cost
from graphopt.errors import DataError, PassError
from graphopt.ir.names import unique_names
from graphopt.passes.prune import PruneChannels
from graphopt.pipeline import Context
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.masked import run_masked
from graphopt.runtime.ort import OrtSession
from tests.passes.prune.random_graphs import INSTRUCTIONS, SIZE, build

CRITERIA = ("l1", "l2", "linf", "random", "lamp", "fpgm", "activation", "apoz", "wanda")
TOLERANCE = 1e-4


def options(rng: random.Random) -> dict[str, object]:
    """A random way of pruning."""
    chosen: dict[str, object] = {
        "criterion": rng.choice(CRITERIA),
        "scope": rng.choice(["uniform", "global", "isomorphic"]),
        "round_to": rng.choice([1, 1, 1, 2]),
        "min_channels": rng.choice([1, 1, 2]),
        "reduction": rng.choice(["sum", "mean", "max", "first"]),
        "normalise": rng.choice(["mean", "max", "sum", "standardise", "none"]),
    }
    if rng.random() < 0.4:
        chosen[rng.choice(["params", "macs", "bytes"])] = rng.uniform(0.3, 0.95)
    else:
        chosen["ratio"] = rng.uniform(0.05, 0.9)
    return chosen


def attempt(number: int, seed: int, export: bool) -> tuple[str, str]:
    """Builds, prunes and checks one network: the outcome, and what was wrong."""
    rng = random.Random(seed * 1_000_003 + number)
    length = rng.randint(1, 16)
    program = [(rng.choice(INSTRUCTIONS), *(rng.randint(0, 11) for _ in range(3))) for _ in range(length)]
    graph = build(program, number, rng.randint(0, 11), rng.choice([2, "n"]))
    unique_names(graph)
    original = graph.clone()
    x = torch.randn(2, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(number))
    step = PruneChannels(**options(rng))  # type: ignore[arg-type]  # options of many types
    try:
        with graph.transaction():
            changes = step.run(graph, Context(graph, [x]))
    except (PassError, DataError) as error:
        if isinstance(error, DataError) and "finds nothing to score" not in str(error):
            raise
        return "refused", ""
    stated = Cost(graph)
    propagate_all(graph)
    graph.verify()
    figures = Cost(graph)
    if (stated.macs, stated.weights) != (figures.macs, figures.weights):
        return "wrong", "the shapes that pruning stated are not those of the operators' rules"
    budget = changes.details.get("budget")
    if budget is not None:
        name = {"params": "weights", "macs": "macs", "bytes": "weight_bytes"}[budget["figure"]]
        left = getattr(figures, name) / getattr(Cost(original), name)
        if abs(left - budget["achieved"]) > 1e-9:
            return "wrong", f"{budget} predicted, {left} left"
    got = run(graph, [x])
    found = compare(got, run_masked(original, [x], changes.kept, changes.details["restricted"]))
    if not found.within(TOLERANCE):
        return "wrong", f"off by {found.max_rel:.2e}"
    if export:
        there = [torch.from_numpy(each) for each in OrtSession(go.to_onnx(graph)).run([x])]
        if not compare(there, got).within(1e-3):
            return "wrong", "ONNX Runtime computes something else"
    return "pruned", ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", type=int, default=10, help="every so many results also run in ONNX Runtime")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    started = time.perf_counter()
    for number in range(parsed.first, parsed.first + parsed.count):
        try:
            outcome, why = attempt(number, parsed.seed, number % parsed.export == 0)
        except Exception as error:  # whatever is raised is a finding
            outcome, why = "wrong", f"{type(error).__name__}: {error}"
        outcomes[outcome] += 1
        if why:
            print(f"{number}: {why}", flush=True)
    seconds = time.perf_counter() - started
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()), f"in {seconds:.0f} s")
    return 1 if outcomes["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
