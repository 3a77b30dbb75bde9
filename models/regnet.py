"""RegNetY (Radosavovic et al. 2020, "Designing Network Design Spaces", arXiv:2003.13678)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn

from .layers import Built, ConvBnAct, SqueezeExcite, finish, images


def stage_widths(depth: int, start: int, slope: float, step: float) -> list[tuple[int, int]]:
    """The paper's quantized linear widths.

    Args:
        depth: Blocks in the whole network.
        start: Width that block 0 would have (w_0).
        slope: Growth per block before quantization (w_a).
        step: Factor between the widths of consecutive stages (w_m).

    Returns:
        Width and number of blocks of each stage.
    """
    widths = []
    for index in range(depth):
        exponent = round(math.log((start + slope * index) / start, step))
        widths.append(round(start * step**exponent / 8) * 8)
    return [(width, len(list(blocks))) for width, blocks in groupby(widths)]


class YBlock(nn.Module):
    """1x1, grouped 3x3, squeeze-excite, 1x1, shortcut: [N, in, H, W] -> [N, width, H/stride, W/stride]."""

    def __init__(self, in_channels: int, width: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.conv1 = ConvBnAct(in_channels, width)
        self.conv2 = ConvBnAct(width, width, 3, stride, width // group_width)
        # The squeeze is relative to the block's input.
        self.se = SqueezeExcite(width, round(in_channels / 4))
        self.conv3 = ConvBnAct(width, width, act=None)
        reshaped = stride != 1 or in_channels != width
        self.shortcut = ConvBnAct(in_channels, width, stride=stride, act=None) if reshaped else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.se(self.conv2(self.conv1(x))))
        result: Tensor = self.relu(self.shortcut(x) + out)
        return result


class RegNetY(nn.Module):
    """RegNetY: [N, 3, H, W] -> [N, classes].

    Args:
        stages: Width and number of blocks of each stage, every one of which halves the image.
        group_width: Channels per group of the 3x3 convolutions.
        stem: Channels of the first convolution.
        classes: Number of logits.
    """

    def __init__(
        self, stages: Sequence[tuple[int, int]], group_width: int, stem: int = 32, classes: int = 1000
    ) -> None:
        super().__init__()
        self.stem = ConvBnAct(3, stem, 3, 2)
        channels = stem
        built: list[nn.Module] = []
        for width, depth in stages:
            blocks: list[nn.Module] = []
            for position in range(depth):
                blocks.append(YBlock(channels, width, 1 if position else 2, group_width))
                channels = width
            built.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*built)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.stages(self.stem(x))), 1)
        out: Tensor = self.fc(x)
        return out


def regnet_y(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, six blocks with groups of 8 channels: [batch, 3, size, size] -> [batch, classes]."""
    stages = ((32, 1), (64, 2), (96, 2), (160, 1))
    return finish(partial(RegNetY, stages, 8, 16, classes), images(batch, 3, size))


def regnet_y_400mf(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """RegNetY-400MF, 4.3M parameters: [batch, 3, size, size] -> [batch, classes]."""
    stages = stage_widths(depth=16, start=48, slope=27.89, step=2.09)
    return finish(partial(RegNetY, stages, 8, classes=classes), images(batch, 3, size))
