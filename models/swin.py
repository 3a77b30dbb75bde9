"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, Mlp, finish, images


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut an image into windows: [N, H, W, C] -> [N * windows, window * window, C]."""
    _, height, width, channels = x.shape
    x = x.view(-1, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo `to_windows`: [N * windows, window * window, C] -> [N, height, width, C]."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


def relative_positions(window: int) -> Tensor:
    """Row of the bias table for every pair of positions in a window, [window**2, window**2]."""
    axis = torch.arange(window)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offsets = points[:, :, None] - points[:, None, :] + window - 1
    return offsets[0] * (2 * window - 1) + offsets[1]


def shift_mask(resolution: int, window: int, shift: int) -> Tensor:
    """Additive mask between positions that only the cyclic shift brought into one window.

    Its shape is [windows, window**2, window**2].
    """
    cuts = torch.tensor([resolution - window, resolution - shift])
    band = torch.bucketize(torch.arange(resolution), cuts, right=True)
    region = (3 * band[:, None] + band[None, :]).view(1, resolution, resolution, 1)
    windows = to_windows(region, window).squeeze(-1)
    apart = windows[:, None, :] != windows[:, :, None]
    return apart.float() * -100.0


class WindowAttention(nn.Module):
    """Self-attention inside windows, with relative position bias: [N * windows, T, dim] -> same."""

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_positions(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        scores = scores + bias.view(length, length, self.heads).permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            scores = scores.view(-1, windows, self.heads, length, length) + mask[None, :, None]
            scores = scores.view(-1, self.heads, length, length)
        mixed = (self.softmax(scores) @ value).transpose(1, 2).reshape(batch, length, dim)
        out: Tensor = self.proj(mixed)
        return out


class SwinBlock(nn.Module):
    """Windowed attention, perhaps shifted, and an MLP: [N, resolution, resolution, dim] -> same."""

    attn_mask: Tensor | None

    def __init__(self, dim: int, resolution: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        # The mask follows from the shape, so checkpoints do not hold it.
        mask = shift_mask(resolution, window, shift) if shift else None
        self.register_buffer("attn_mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm1(x)
        if self.shift:
            out = torch.roll(out, (-self.shift, -self.shift), (1, 2))
        out = self.attn(to_windows(out, self.window), self.attn_mask)
        out = from_windows(out, self.window, self.resolution, self.resolution)
        if self.shift:
            out = torch.roll(out, (self.shift, self.shift), (1, 2))
        x = x + out
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class PatchMerging(nn.Module):
    """Join each 2x2 neighbourhood: [N, H, W, dim] -> [N, H/2, W/2, 2*dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        out: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return out


class Swin(nn.Module):
    """Swin Transformer: [N, 3, size, size] -> [N, classes].

    Args:
        size: Height and width of the image; after the patches, a multiple of `window` at every stage.
        dim: Embedding dimension of the first stage; each later stage doubles it.
        depths: Blocks per stage; every second one is shifted.
        heads: Attention heads per stage.
        window: Height and width of a window.
        patch: Height and width of a patch.
        classes: Number of logits.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        patch: int = 4,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.patch_norm = nn.LayerNorm(dim)
        resolution = size // patch
        stages: list[nn.Module] = []
        for index, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            blocks: list[nn.Module] = []
            if index:
                blocks.append(PatchMerging(dim))
                dim, resolution = 2 * dim, resolution // 2
            for position in range(depth):
                # A single window already sees everything: nothing to shift.
                shift = window // 2 if position % 2 and resolution > window else 0
                blocks.append(SwinBlock(dim, resolution, count, window, shift))
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_norm(self.patch_embed(x).permute(0, 2, 3, 1))
        x = self.norm(self.stages(x))
        out: Tensor = self.head(x.mean([1, 2]))
        return out


def swin(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, two stages, windows of 4x4: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(Swin, size, 32, (2, 2), (2, 4), window=4, classes=classes)
    return finish(make, images(batch, 3, size))


def swin_tiny(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """Swin-T, 28.3M parameters: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(Swin, size, 96, (2, 2, 6, 2), (3, 6, 12, 24), window=7, classes=classes)
    return finish(make, images(batch, 3, size))
