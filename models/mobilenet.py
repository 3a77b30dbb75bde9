"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) and V3 (Howard et al. 2019, arXiv:1905.02244)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .layers import Built, ConvBnAct, SqueezeExcite, finish, images, make_divisible


class Stage(NamedTuple):
    """A row of MobileNetV2's table 2: expansion, output channels, repeats, stride of the first block."""

    expand: int
    out: int
    repeats: int
    stride: int


class Block(NamedTuple):
    """A row of MobileNetV3's tables 1 and 2."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int


class InvertedResidual(nn.Module):
    """Expand, depthwise, perhaps squeeze-excite, project: [N, in, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(
        self,
        in_channels: int,
        block: Block,
        act: Callable[[], nn.Module],
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        expanded = block.expanded
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(ConvBnAct(in_channels, expanded, act=act, eps=eps))
        layers.append(ConvBnAct(expanded, expanded, block.kernel, block.stride, expanded, act, eps))
        if block.squeeze:
            layers.append(SqueezeExcite(expanded, make_divisible(expanded / 4), gate=nn.Hardsigmoid))
        layers.append(ConvBnAct(expanded, block.out, act=None, eps=eps))
        self.layers = nn.Sequential(*layers)
        self.residual = block.stride == 1 and in_channels == block.out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Inverted residuals with ReLU6: [N, 3, H, W] -> [N, classes].

    Args:
        stages: Rows of the paper's table 2.
        stem: Channels of the first convolution.
        head: Channels of the last convolution.
        classes: Number of logits.
        stride: Of the first convolution; 1 keeps small images whole.
    """

    def __init__(
        self, stages: Sequence[Stage], stem: int = 32, head: int = 1280, classes: int = 1000, stride: int = 2
    ) -> None:
        super().__init__()
        act = partial(nn.ReLU6, inplace=True)
        layers: list[nn.Module] = [ConvBnAct(3, stem, 3, stride, act=act)]
        channels = stem
        for stage in stages:
            for position in range(stage.repeats):
                block = Block(3, channels * stage.expand, stage.out, False, False, 1 if position else stage.stride)
                layers.append(InvertedResidual(channels, block, act))
                channels = stage.out
        layers.append(ConvBnAct(channels, head, act=act))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, classes))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).mean([2, 3]))
        return out


class MobileNetV3(nn.Module):
    """Inverted residuals with squeeze-excite and hard-swish: [N, 3, H, W] -> [N, classes].

    Args:
        blocks: Rows of the paper's tables 1 or 2.
        stem: Channels of the first convolution.
        head: Channels of the last convolution.
        hidden: Features of the hidden linear layer.
        classes: Number of logits.
        stride: Of the first convolution; 1 keeps small images whole.
    """

    def __init__(
        self, blocks: Sequence[Block], stem: int, head: int, hidden: int, classes: int = 1000, stride: int = 2
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvBnAct(3, stem, 3, stride, act=nn.Hardswish, eps=1e-3)]
        channels = stem
        for block in blocks:
            act = nn.Hardswish if block.hard_swish else nn.ReLU
            layers.append(InvertedResidual(channels, block, act, eps=1e-3))
            channels = block.out
        layers.append(ConvBnAct(channels, head, act=nn.Hardswish, eps=1e-3))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(head, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.features(x)), 1)
        out: Tensor = self.classifier(x)
        return out


def mobilenet_v2(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, seven inverted residuals: [batch, 3, size, size] -> [batch, classes]."""
    stages = (Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 32, 2, 2), Stage(6, 64, 2, 2))
    return finish(partial(MobileNetV2, stages, 16, 256, classes), images(batch, 3, size))


def mobilenet_v2_x1(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """MobileNetV2 at width 1.0, 3.5M parameters: [batch, 3, size, size] -> [batch, classes]."""
    stages = (
        Stage(1, 16, 1, 1),
        Stage(6, 24, 2, 2),
        Stage(6, 32, 3, 2),
        Stage(6, 64, 4, 2),
        Stage(6, 96, 3, 1),
        Stage(6, 160, 3, 2),
        Stage(6, 320, 1, 1),
    )
    return finish(partial(MobileNetV2, stages, classes=classes), images(batch, 3, size))


def mobilenet_v3(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, each kind of block of MobileNetV3-Large: [batch, 3, size, size] -> [batch, classes]."""
    blocks = (
        Block(3, 16, 16, False, False, 1),
        Block(3, 64, 24, False, False, 2),
        Block(5, 72, 40, True, False, 2),
        Block(5, 120, 40, True, False, 1),
        Block(3, 160, 64, False, True, 2),
        Block(3, 192, 64, True, True, 1),
        Block(5, 192, 80, True, True, 1),
    )
    return finish(partial(MobileNetV3, blocks, 16, 240, 256, classes), images(batch, 3, size))


def mobilenet_v3_large(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """MobileNetV3-Large, 5.5M parameters: [batch, 3, size, size] -> [batch, classes]."""
    blocks = (
        Block(3, 16, 16, False, False, 1),
        Block(3, 64, 24, False, False, 2),
        Block(3, 72, 24, False, False, 1),
        Block(5, 72, 40, True, False, 2),
        Block(5, 120, 40, True, False, 1),
        Block(5, 120, 40, True, False, 1),
        Block(3, 240, 80, False, True, 2),
        Block(3, 200, 80, False, True, 1),
        Block(3, 184, 80, False, True, 1),
        Block(3, 184, 80, False, True, 1),
        Block(3, 480, 112, True, True, 1),
        Block(3, 672, 112, True, True, 1),
        Block(5, 672, 160, True, True, 2),
        Block(5, 960, 160, True, True, 1),
        Block(5, 960, 160, True, True, 1),
    )
    return finish(partial(MobileNetV3, blocks, 16, 960, 1280, classes), images(batch, 3, size))
