"""Half of the attention heads and of the FFN width of transformers models; parameters beside what the formula says.

Run by hand: ``python -m tests.bench.prune_heads [NAME ...]``. Prints a Markdown table. The models are small ones of the
transformers library with random weights; each is held to its masked original (1e-4) and run in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable

import torch

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import Equivalence, Verify
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession
from tests.bench.transformers_models import CASES
from tests.bench.transformers_zoo import Trial

PIPELINE = "prune-channels{ratio=0.5,kinds=[heads,ffn]}"
COLUMNS = ("model", "parameters", "after", "predicted", "masked error", "ONNX Runtime error")


def encoder(dim: int, hidden: int, table: int = 0) -> int:
    """What half of the heads and hidden features take from a layer with biases; `table` is of relative positions."""
    return 4 * dim * dim // 2 + 3 * dim // 2 + hidden // 2 * (2 * dim + 1) + table


def decoder(dim: int, queries: int, keys: int, head_dim: int, hidden: int) -> int:
    """The same of a layer without biases, with fewer keys than queries and a gated FFN."""
    return head_dim * dim * (2 * (queries // 2) + 2 * (keys // 2)) + 3 * dim * (hidden // 2)


#: What goes, from the sizes in `tests.bench.transformers_models`.
PREDICTED: dict[str, Callable[[], int]] = {
    "ViT": lambda: 2 * encoder(32, 48),
    "DeiT": lambda: 2 * encoder(32, 48),
    # window 4: 7 x 7 relative positions
    "Swin": lambda: 2 * encoder(16, 64, 49 * 1) + 2 * encoder(32, 128, 49 * 2),
    "BERT": lambda: 2 * encoder(32, 48),
    "GPT-2": lambda: 2 * encoder(32, 128),
    "LLaMA": lambda: 2 * decoder(32, 4, 2, 8, 48),
    "Mistral": lambda: 2 * decoder(32, 4, 2, 8, 48),
    "Gemma": lambda: 2 * decoder(32, 4, 2, 8, 48),
}


def row(name: str) -> list[str]:
    """One line of the table."""
    trial = Trial(CASES[name]())
    graph = go.capture(trial.module, (), trial.samples[0][0])
    inputs = [trial.samples[0][0][value.name] for value in graph.inputs]
    before = Cost(graph).weights
    report = run_pipeline(graph, PIPELINE, Context(graph), [Verify(), Equivalence(1e-4, inputs)])
    after = Cost(graph).weights
    there = [torch.from_numpy(each) for each in OrtSession(go.to_onnx(graph)).run(inputs)]
    predicted = before - PREDICTED[name]()
    return [
        name, f"{before:,}", f"{after:,}", f"{predicted:,}" if predicted != after else "the same",
        f"{report.passes[0].checks['equivalence']['max_rel']:.0e}", f"{compare(there, run(graph, inputs)).max_rel:.0e}",
    ]  # fmt: skip


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models; all by default")
    names = parser.parse_args().names or PREDICTED
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    for name in names:
        print("| " + " | ".join(row(name)) + " |", flush=True)


if __name__ == "__main__":
    main()
