"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Built, Mlp, finish, images


class Attention(nn.Module):
    """Self-attention with one fused projection for query, key and value: [N, T, dim] -> same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, dim))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: [N, T, dim] -> same."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ViT(nn.Module):
    """Vision Transformer with a class token: [N, 3, size, size] -> [N, classes].

    Args:
        size: Height and width of the image.
        patch: Height and width of a patch.
        dim: Embedding dimension.
        depth: Number of blocks.
        heads: Attention heads.
        classes: Number of logits.
    """

    def __init__(self, size: int, patch: int, dim: int, depth: int, heads: int, classes: int = 1000) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, (size // patch) ** 2 + 1, dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(*[Block(dim, heads, 4 * dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.pos_embed))
        out: Tensor = self.head(x[:, 0])
        return out


def vit(classes: int = 10, size: int = 32, batch: int = 2) -> Built:
    """Zoo entry, three blocks with four heads of 16: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(ViT, size, patch=8, dim=64, depth=3, heads=4, classes=classes)
    return finish(make, images(batch, 3, size))


def vit_base(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """ViT-B/16, 86.6M parameters: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(ViT, size, patch=16, dim=768, depth=12, heads=12, classes=classes)
    return finish(make, images(batch, 3, size))
