"""Budgets of four kinds on twenty models: what was asked for, what was achieved, and why where it is further away.

Run by hand: ``python -m tests.bench.prune_budgets [MODEL ...]``. Prints a Markdown table.

Parameters, multiply-accumulates and bytes are counted anew on the pruned graph. Latency is what ONNX Runtime needs on
one thread, original and pruned model turn by turn in one run; it is measured once more after the pass, and both figures
are shown. A cell in bold is further than 2% from its target.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.errors import PassError
from graphopt.models import build
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.timing import medians

MODELS = (
    "lenet", "vgg", "resnet", "resnet_bottleneck", "preact_resnet", "resnext", "densenet", "inception", "mobilenet_v2",
    "mobilenet_v3", "shufflenet_v2", "efficientnet", "regnet_y", "squeezenet", "unet", "convnext", "vit", "swin",
    "mlp_mixer", "gpt",
)  # fmt: skip
BUDGETS = {"params": 0.5, "macs": 0.5, "bytes": 0.6, "latency": 0.7}
TOLERANCE = 0.02


def counted(figure: str, graph: go.Graph) -> int:
    """A figure of a graph, from its nodes and weights."""
    cost = Cost(graph)
    return {"params": cost.weights, "macs": cost.macs, "bytes": cost.weight_bytes}[figure]


def measured(original: go.Graph, pruned: go.Graph, inputs: list[torch.Tensor]) -> float:
    """The part of the time that is left."""
    sessions = {"before": OrtSession(go.to_onnx(original)), "after": OrtSession(go.to_onnx(pruned))}
    feed = [each.numpy() for each in inputs]
    times = medians({name: (lambda s=session: s.run(feed)) for name, session in sessions.items()}, repeats=31)
    return times["after"] / times["before"]


def cell(graph: go.Graph, figure: str, target: float, inputs: list[torch.Tensor]) -> tuple[str, bool]:
    """What one budget comes to, and whether it is within the tolerance or its reason was reported."""
    original = graph.clone()
    try:
        report = go.optimize(graph, f"prune-channels{{{figure}={target},scope=global,max-ratio=0.95}}", check=False)
    except PassError as error:
        return f"refused: {error.what}", True
    achieved = report.passes[0].details["budget"]["achieved"]
    if figure != "latency":
        exact = counted(figure, graph) / counted(figure, original)
        assert abs(exact - achieved) < 1e-9, f"{achieved} was predicted, {exact} is left"
    reason = next((note for note in report.passes[0].notes if note.startswith(figure)), "")
    close = abs(achieved - target) <= TOLERANCE * target
    text = f"{achieved:.3f}" if close else f"**{achieved:.3f}**: {reason.partition(': ')[2]}"
    if figure == "latency":
        text += f" (again: {measured(original, graph, inputs):.3f})"
    return text, close or bool(reason)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| model | " + " | ".join(f"{name} {BUDGETS[name]:g}" for name in arguments.budgets) + " | seconds |")
    print("|" + " --- |" * (len(arguments.budgets) + 2))
    good = total = 0
    for name in arguments.models or MODELS:
        started = time.perf_counter()
        module, args = build(name)
        captured = go.capture(module, args)
        inputs = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        cells = [cell(captured.clone(), each, BUDGETS[each], inputs) for each in arguments.budgets]
        good, total = good + sum(fine for _, fine in cells), total + len(cells)
        texts = [text for text, _ in cells]
        print(f"| {name} | " + " | ".join(texts) + f" | {time.perf_counter() - started:.1f} |", flush=True)
    print(f"\n{good} of {total} within 2% or with a reason")


if __name__ == "__main__":
    main()
