"""Weight-only quantization of a small GPT, trained on the documentation that comes with Python.

    python -m tests.bench.quantize_text [--out FOLDER] [--steps 800] [--threads 1]

Trains a character model on ``pydoc_data.topics`` (kept in FOLDER and not trained again) and prints the perplexity on
the last tenth of the text, read by ONNX Runtime, for float weights and for each way of rounding them to 4 bits.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import nn

import graphopt as go
from graphopt.models.gpt import Gpt
from graphopt.runtime.ort import OrtSession

LENGTH, BATCH = 96, 16
WIDTH, DEPTH, HEADS = 128, 4, 4

FORMATS = {
    "one scale per output": "",
    "one scale per 32 inputs": ",block=32",
}
WAYS = {
    "nearest": "insert-weight-qdq{{bits=4{0},operators=[MatMul,Gemm]}},pack-weights",
    "AWQ": "awq{{bits=4{0}}},insert-weight-qdq{{bits=4{0},operators=[MatMul,Gemm]}},pack-weights",
    "GPTQ": "insert-weight-qdq{{bits=4{0},operators=[MatMul,Gemm]}},gptq,pack-weights",
    "AWQ + GPTQ": "awq{{bits=4{0}}},insert-weight-qdq{{bits=4{0},operators=[MatMul,Gemm]}},gptq,pack-weights",
}


def text() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Characters to train on and to test on, as numbers, and how many different ones there are."""
    whole = "\n".join(topics[name] for name in sorted(topics))
    alphabet = sorted(set(whole))
    numbers = torch.tensor([alphabet.index(c) for c in whole])
    cut = len(numbers) * 9 // 10
    return numbers[:cut], numbers[cut:], len(alphabet)


def windows(data: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.randint(len(data) - LENGTH - 1, (BATCH,), generator=generator)
    rows = torch.stack([data[start : start + LENGTH + 1] for start in starts.tolist()])
    return rows[:, :-1], rows[:, 1:]


def train(module: nn.Module, data: torch.Tensor, steps: int) -> None:
    for p in module.parameters():
        p.requires_grad_()
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    started = time.perf_counter()
    for step in range(steps):
        x, y = windows(data, generator)
        loss = F.cross_entropy(module(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 24:
            print(f"# step {step + 1}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    module.eval()


def perplexity(path: Path, data: torch.Tensor) -> float:
    """Of every character given those before it in its window, through ONNX Runtime."""
    session = OrtSession(path)
    rows = data[: len(data) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    total = 0.0
    for part in rows.split(BATCH):
        if len(part) < BATCH:
            break
        logits = torch.from_numpy(np.asarray(session.run([part[:, :-1].contiguous()])[0]))
        total += float(F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()))
    return math.exp(total / (len(rows) // BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "graphopt-text")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    training, test, size = text()
    torch.manual_seed(0)
    module = Gpt(size, WIDTH, DEPTH, HEADS, LENGTH)
    checkpoint = options.out / "gpt.safetensors"
    if checkpoint.exists():
        load_model(module, checkpoint)
    else:
        train(module, training, options.steps)
        save_model(module, checkpoint)
    module.eval()
    generator = torch.Generator().manual_seed(1)
    data = [(windows(training, generator)[0],) for _ in range(16)]
    plain = go.capture(module, data[0])
    go.optimize(plain, "simplify,fuse")
    path = options.out / "float.onnx"
    go.save(plain, path)
    reference = perplexity(path, test)
    print(f"| weights | rounding | perplexity | against float | file, kB |\n| --- | --- | --- | --- | --- |\n"
          f"| float | - | {reference:.4f} | | {path.stat().st_size / 1000:.0f} |")  # fmt: skip
    for name, given in FORMATS.items():
        for way, pipeline in WAYS.items():
            graph = plain.clone()
            go.optimize(graph, pipeline.format(given), data)
            path = options.out / "quantized.onnx"
            go.save(graph, path)
            found = perplexity(path, test)
            print(f"| 4 bits, {name} | {way} | {found:.4f} | {100 * (found / reference - 1):+.2f}% | "
                  f"{path.stat().st_size / 1000:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
