"""Planning and pruning a decoder of a billion parameters: seconds, and memory beside that of the weights.

Run by hand: ``python -m tests.bench.prune_large [--layers 22] [--dtype bfloat16]``. Prints a Markdown table. The
decoder has the sizes of TinyLlama-1.1B (grouped queries, gated FFN) and random weights. Peak memory is the process's
resident set (Linux), above what it was before the step.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graphopt as go
from graphopt.analysis.cost import Cost

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder; the defaults are those of TinyLlama-1.1B."""

    dim: int = 2048
    layers: int = 22
    heads: int = 32
    shared: int = 4
    hidden: int = 5632
    vocabulary: int = 32000


class Layer(nn.Module):
    """RMSNorm, attention with shared keys and values, gated FFN: [N, T, dim] -> same."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads, self.shared, self.width = sizes.heads, sizes.shared, sizes.dim // sizes.heads
        inner = self.shared * self.width
        self.norm, self.after = nn.RMSNorm(sizes.dim), nn.RMSNorm(sizes.dim)
        self.q, self.o = (nn.Linear(sizes.dim, sizes.dim, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(sizes.dim, inner, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(sizes.dim, sizes.hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(sizes.hidden, sizes.dim, bias=False)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:2], heads, self.width).transpose(1, 2)

    def _repeated(self, x: Tensor) -> Tensor:
        batch, shared, length, width = x.shape
        return x[:, :, None].expand(batch, shared, self.heads // shared, length, width).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = self._split(self.q(y), self.heads), self._split(self.k(y), self.shared), self._split(
            self.v(y), self.shared
        )  # fmt: skip
        mixed = nn.functional.scaled_dot_product_attention(q, self._repeated(k), self._repeated(v), is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.after(x)
        out: Tensor = x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))
        return out


class Decoder(nn.Module):
    """Token ids [N, T] -> logits [N, T, vocabulary]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.dim)
        self.layers = nn.Sequential(*(Layer(sizes) for _ in range(sizes.layers)))
        self.norm = nn.RMSNorm(sizes.dim)
        self.head = nn.Linear(sizes.dim, sizes.vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.layers(self.embedding(ids))))
        return logits


def decoder(sizes: Sizes, dtype: torch.dtype) -> Decoder:
    """A decoder with random weights, each allocated once."""
    with torch.device("meta"):
        module = Decoder(sizes).to(dtype).eval()
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.05, 0.05) if parameter.dim() > 1 else parameter.fill_(1)
    return module


def resident(field: str) -> int:
    """Bytes of the process in memory: now (``VmRSS``), or at most so far (``VmHWM``)."""
    line = next(each for each in STATUS.read_text().splitlines() if each.startswith(field))
    return 1024 * int(line.split()[1])


def watched(step: Callable[[], Any]) -> tuple[Any, float, int]:
    """What a step returns, its seconds, and the bytes that it needed at most above what was there before it."""
    CLEAR.write_text("5")  # forgets the highest so far
    before, started = resident("VmRSS"), time.perf_counter()
    result = step()
    return result, time.perf_counter() - started, max(resident("VmHWM") - before, 0)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=Sizes.layers)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--pipeline", default="prune-channels{ratio=0.5}")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tiny = decoder(Sizes(8, 1, 2, 1, 8, 8), torch.float32)
    go.optimize(go.capture(tiny, torch.zeros(1, 4, dtype=torch.long)), arguments.pipeline, check=False)  # imports
    module = decoder(Sizes(layers=arguments.layers), getattr(torch, arguments.dtype))
    ids = torch.zeros(1, 16, dtype=torch.long)
    graph, captured, capture_bytes = watched(lambda: go.capture(module, ids))
    weights = Cost(graph).weight_bytes
    _, pruned, prune_bytes = watched(lambda: go.optimize(graph, arguments.pipeline, check=False))
    after = Cost(graph).weight_bytes
    total = sum(each.numel() for each in module.parameters())
    print("| parameters | weights | step | seconds | peak above | in weights |\n| --- | --- | --- | --- | --- | --- |")
    for step, seconds, peak in (("capture", captured, capture_bytes), ("plan and prune", pruned, prune_bytes)):
        print(
            f"| {total:,} | {weights / 2**20:,.0f} MiB | {step} | {seconds:.2f} | {peak / 2**20:,.0f} MiB | "
            f"{peak / weights:.2f}x |"
        )
    print(f"\nPruned weights: {after / 2**20:,.0f} MiB, {after / weights:.2f}x, new ones: the module keeps its own.")


if __name__ == "__main__":
    main()
