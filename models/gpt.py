"""GPT-2 style decoder (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Built, finish, tokens


class CausalAttention(nn.Module):
    """Causal self-attention, one projection split three ways: [N, T, dim] -> same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim = dim
        self.heads = heads
        self.c_attn = nn.Linear(dim, 3 * dim)
        self.c_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            part.view(batch, length, self.heads, self.dim // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(self.dim, dim=2)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).contiguous().view(batch, length, self.dim))
        return out


class FeedForward(nn.Module):
    """Two linear layers with the tanh-approximated GELU between: [N, T, dim] -> same."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(dim, hidden)
        self.act = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(self.act(self.c_fc(x)))
        return out


class Block(nn.Module):
    """Pre-norm decoder block: [N, T, dim] -> same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = CausalAttention(dim, heads)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Gpt(nn.Module):
    """Decoder-only language model whose output layer is its token embedding.

    Shapes: [N, T] int64 -> [N, T, vocabulary].

    Args:
        vocabulary: Number of tokens.
        dim: Hidden size.
        depth: Number of blocks.
        heads: Attention heads.
        positions: Longest sequence.
    """

    def __init__(self, vocabulary: int, dim: int, depth: int, heads: int, positions: int = 1024) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, dim)
        self.wpe = nn.Embedding(positions, dim)
        self.h = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.02)
        self.lm_head.weight = self.wte.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.wte(input_ids) + self.wpe(positions)
        for block in self.h:
            x = block(x)
        out: Tensor = self.lm_head(self.ln_f(x))
        return out


def gpt(batch: int = 2, length: int = 16) -> Built:
    """Zoo entry, two blocks with four heads of 16, 512 tokens: [batch, length] -> [batch, length, 512]."""
    make = partial(Gpt, 512, dim=64, depth=2, heads=4, positions=64)
    return finish(make, tokens(batch, length, 512))


def gpt2_small(batch: int = 1, length: int = 128) -> Built:
    """GPT-2 small, 124.4M parameters: [batch, length] -> [batch, length, 50257]."""
    make = partial(Gpt, 50257, dim=768, depth=12, heads=12)
    return finish(make, tokens(batch, length, 50257))
