"""Single weights of a trained multilayer perceptron taken away without training after: magnitude, Wanda, SparseGPT.

Run by hand: ``python -m tests.bench.sparsity``. Prints a Markdown table: accuracy on the digits' test set, mean over
seeds.
"""

from __future__ import annotations

import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.models.digits import accuracy, data

LEVELS = {"50%": "ratio=0.5", "70%": "ratio=0.7", "80%": "ratio=0.8", "90%": "ratio=0.9", "2:4": "pattern=2of4"}
METHODS = {"magnitude": "", "Wanda, per output": ",criterion=wanda,scope=output", "SparseGPT": ",method=sparsegpt"}


def trained(seed: int, epochs: int) -> nn.Module:
    """A perceptron of three layers, trained with Adam."""
    torch.manual_seed(seed)
    samples = data()
    size = samples.train_x[0].numel()
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(size, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(samples.train_x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(module(samples.train_x[rows]), samples.train_y[rows]).backward()
            optimizer.step()
    return module.eval()


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    samples = data()
    calibration = list(samples.train_x[:1024].split(128))
    found: dict[tuple[str, str], list[float]] = {}
    dense = []
    for seed in range(arguments.seeds):
        module = trained(seed, arguments.epochs)
        graph = go.capture(module, (samples.train_x[:4],), dynamic=[{0: "batch"}])
        dense.append(accuracy(module, samples.test_x, samples.test_y))
        for method, more in METHODS.items():
            for level, options in LEVELS.items():
                sparse = graph.clone()
                go.optimize(sparse, f"sparsify{{{options}{more}}}", calibration, check=False)
                score = accuracy(go.to_torch(sparse).eval(), samples.test_x, samples.test_y)
                found.setdefault((method, level), []).append(score)
    print(f"dense: {100 * statistics.mean(dense):.1f}%; mean of {arguments.seeds} seeds\n")
    print("| method | " + " | ".join(LEVELS) + " |")
    print("| --- |" + " --- |" * len(LEVELS))
    for method in METHODS:
        print(
            f"| {method} | " + " | ".join(f"{100 * statistics.mean(found[method, each]):.1f}" for each in LEVELS) + " |"
        )


if __name__ == "__main__":
    main()
