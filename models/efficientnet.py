"""EfficientNet (Tan & Le 2019, arXiv:1905.11946)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .layers import Built, ConvBnAct, SqueezeExcite, finish, images


class Stage(NamedTuple):
    """A row of the paper's table 1: expansion, kernel, stride of the first block, channels, repeats."""

    expand: int
    kernel: int
    stride: int
    out: int
    repeats: int


class MBConv(nn.Module):
    """Inverted residual with squeeze-excite and SiLU: [N, in, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = in_channels * expand
        self.expand = ConvBnAct(in_channels, inner, act=nn.SiLU) if expand != 1 else nn.Identity()
        self.depthwise = ConvBnAct(inner, inner, kernel, stride, inner, act=nn.SiLU)
        # The squeeze is relative to the block's input, not to the expanded channels.
        self.se = SqueezeExcite(inner, max(1, in_channels // 4), act=nn.SiLU)
        self.project = ConvBnAct(inner, out_channels, act=None)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return out + x if self.residual else out


class EfficientNet(nn.Module):
    """EfficientNet, without stochastic depth: [N, 3, H, W] -> [N, classes].

    Args:
        stages: Rows of the paper's table 1.
        stem: Channels of the first convolution.
        head: Channels of the last convolution.
        classes: Number of logits.
        stride: Of the first convolution; 1 keeps small images whole.
    """

    def __init__(
        self, stages: Sequence[Stage], stem: int = 32, head: int = 1280, classes: int = 1000, stride: int = 2
    ) -> None:
        super().__init__()
        self.stem = ConvBnAct(3, stem, 3, stride, act=nn.SiLU)
        blocks: list[nn.Module] = []
        channels = stem
        for stage in stages:
            for position in range(stage.repeats):
                first = 1 if position else stage.stride
                blocks.append(MBConv(channels, stage.out, stage.expand, stage.kernel, first))
                channels = stage.out
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvBnAct(channels, head, act=nn.SiLU)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.head(self.blocks(self.stem(x)))), 1)
        out: Tensor = self.classifier(self.dropout(x))
        return out


def efficientnet(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, six blocks of 16 to 64 channels: [batch, 3, size, size] -> [batch, classes]."""
    stages = (Stage(1, 3, 1, 16, 1), Stage(6, 3, 2, 24, 2), Stage(6, 5, 2, 40, 2), Stage(6, 3, 2, 64, 1))
    return finish(partial(EfficientNet, stages, 16, 256, classes), images(batch, 3, size))


def efficientnet_b0(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """EfficientNet-B0, 5.3M parameters: [batch, 3, size, size] -> [batch, classes]."""
    stages = (
        Stage(1, 3, 1, 16, 1),
        Stage(6, 3, 2, 24, 2),
        Stage(6, 5, 2, 40, 2),
        Stage(6, 3, 2, 80, 3),
        Stage(6, 5, 1, 112, 3),
        Stage(6, 5, 2, 192, 4),
        Stage(6, 3, 1, 320, 1),
    )
    return finish(partial(EfficientNet, stages, classes=classes), images(batch, 3, size))
