"""Inception v1, or GoogLeNet (Szegedy et al. 2015, arXiv:1409.4842), with batch norm (arXiv:1502.03167)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .layers import Built, ConvBnAct, finish, images


class Widths(NamedTuple):
    """Channels of an inception module's convolutions, in the order of the paper's table 1."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int


class InceptionBlock(nn.Module):
    """Four parallel branches, concatenated: [N, in, H, W] -> [N, one + three + five + pool, H, W]."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        self.branch1 = ConvBnAct(in_channels, widths.one)
        self.branch3 = nn.Sequential(ConvBnAct(in_channels, widths.reduce3), ConvBnAct(widths.reduce3, widths.three, 3))
        self.branch5 = nn.Sequential(ConvBnAct(in_channels, widths.reduce5), ConvBnAct(widths.reduce5, widths.five, 5))
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvBnAct(in_channels, widths.pool))
        self.out_channels = widths.one + widths.three + widths.five + widths.pool

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], 1)


class Inception(nn.Module):
    """GoogLeNet without its auxiliary classifiers: [N, 3, H, W] -> [N, classes].

    Args:
        stages: Widths of the inception modules, one sequence per resolution; max pools between.
        stem: Channels of the stem's first convolution; its last has three times as many.
        classes: Number of logits.
    """

    def __init__(self, stages: Sequence[Sequence[Widths]], stem: int = 64, classes: int = 1000) -> None:
        super().__init__()
        channels = 3 * stem
        self.stem = nn.Sequential(
            ConvBnAct(3, stem, 7, 2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            ConvBnAct(stem, stem),
            ConvBnAct(stem, channels, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        layers: list[nn.Module] = []
        for index, stage in enumerate(stages):
            if index:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            for widths in stage:
                block = InceptionBlock(channels, widths)
                layers.append(block)
                channels = block.out_channels
        self.blocks = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.blocks(self.stem(x))), 1)
        out: Tensor = self.fc(self.dropout(x))
        return out


def inception(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, four inception modules at two resolutions: [batch, 3, size, size] -> [batch, classes]."""
    stages = (
        (Widths(16, 24, 32, 8, 8, 8), Widths(32, 32, 48, 8, 24, 16)),
        (Widths(48, 24, 56, 8, 16, 16), Widths(40, 32, 64, 8, 16, 16)),
    )
    return finish(partial(Inception, stages, stem=16, classes=classes), images(batch, 3, size))


def googlenet(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """GoogLeNet with batch norm, 7.0M parameters: [batch, 3, size, size] -> [batch, classes]."""
    stages = (
        (Widths(64, 96, 128, 16, 32, 32), Widths(128, 128, 192, 32, 96, 64)),
        (
            Widths(192, 96, 208, 16, 48, 64),
            Widths(160, 112, 224, 24, 64, 64),
            Widths(128, 128, 256, 24, 64, 64),
            Widths(112, 144, 288, 32, 64, 64),
            Widths(256, 160, 320, 32, 128, 128),
        ),
        (Widths(256, 160, 320, 32, 128, 128), Widths(384, 192, 384, 48, 128, 128)),
    )
    return finish(partial(Inception, stages, classes=classes), images(batch, 3, size))
