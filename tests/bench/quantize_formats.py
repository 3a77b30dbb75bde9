"""Number formats of weights on a trained network: accuracy on Fashion-MNIST and bytes. Prints Markdown.

    python -m tests.bench.quantize_formats --data DIR --checkpoints DIR [--model mobilenet_v2] [--images 10000]

DIRs are what tests/bench/fashion.py reads and writes. Batch norms are folded first (`simplify,fuse`), every weight of
the network is quantized without any training or calibration, activations stay float; ONNX Runtime computes. "bits a
code" is what the codes take: piecewise has two grids of the bits named, and so one bit more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import graphopt as go
from graphopt.runtime.ort import OrtSession
from tests.bench import fashion

#: Name, options of insert-weight-qdq but for granularity, bits per code.
FORMATS = [
    ("uniform, 8 bits", "bits=8", 8), ("uniform, 5 bits", "bits=5", 5),
    ("uniform, 5 bits, mse", "bits=5,search=mse", 5),
    ("uniform, 4 bits", "bits=4", 4), ("uniform, 4 bits, mse", "bits=4,search=mse", 4),
    ("uniform with zero points, 4 bits", "bits=4,symmetric=false", 4), ("PWLQ, 4 bits", "format=piecewise,bits=4", 5),
    ("PWLQ, 3 bits", "format=piecewise,bits=3", 4), ("uniform, 3 bits", "bits=3", 3),
    ("uniform, 3 bits, mse", "bits=3,search=mse", 3), ("k-means, 4 bits", "format=kmeans,bits=4", 4),
    ("k-means, 3 bits", "format=kmeans,bits=3", 3), ("powers of two, 4 bits", "format=power-of-two,bits=4", 4),
    ("float8 e4m3", "format=float8e4m3fn", 8), ("float8 e5m2", "format=float8e5m2", 8),
    ("PWLQ, 2 bits", "format=piecewise,bits=2", 3), ("uniform, 2 bits", "bits=2", 2),
    ("uniform, 2 bits, mse", "bits=2,search=mse", 2),
]  # fmt: skip
GRANULARITIES = ("global", "tensor", "channel")
BATCH = 250


def accuracy(graph: go.Graph, test: fashion.Images) -> float:
    session = OrtSession(go.to_onnx(graph), optimize=True)
    hits = 0
    for x, y in zip(test[0].split(BATCH), test[1].split(BATCH), strict=True):
        hits += int((torch.from_numpy(session.run([x.contiguous()])[0]).argmax(1) == y).sum())
    return 100 * hits / len(test[1])


def row(graph: go.Graph, name: str, options: str, bits: int, test: fashion.Images) -> str:
    cells, size = [], 0
    for granularity in GRANULARITIES:
        quantized = graph.clone()
        go.optimize(quantized, f"quantize-weights{{{options},granularity={granularity}}}", check=False)
        cells.append(f"{accuracy(quantized, test):.2f}")
        size = len(go.to_onnx(quantized).SerializeToString())
    return f"| {name} | {bits} | {' | '.join(cells)} | {size / 1000:.0f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--model", choices=list(fashion.NETWORKS), default="mobilenet_v2")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", help="names of formats to run")
    options = parser.parse_args(arguments)
    test = fashion.read(options.data, "t10k", options.images)
    module = fashion.load(options.checkpoints, options.model)
    graph = go.capture(module, (test[0][:2].contiguous(),), dynamic={"x": {0: "batch"}})
    go.optimize(graph, "simplify,fuse", check=False)
    size = len(go.to_onnx(graph).SerializeToString())
    print(f"| {options.model} | bits a code | {' | '.join(f'{each}, %' for each in GRANULARITIES)} | file, kB |")
    print("| --- | --- | --- | --- | --- | --- |")
    exact = f"{accuracy(graph, test):.2f}"
    print(f"| float32 | 32 | {exact} | {exact} | {exact} | {size / 1000:.0f} |", flush=True)
    for name, text, bits in FORMATS:
        if not options.only or name in options.only:
            print(row(graph, name, text, bits, test), flush=True)


if __name__ == "__main__":
    main()
