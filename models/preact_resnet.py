"""Pre-activation ResNet (He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, finish, images


class PreActBlock(nn.Module):
    """Norm and activation before each convolution: [N, in, H, W] -> [N, width, H/stride, W/stride].

    The skip branch carries the raw sum, so no batch norm that reads it can be folded into one convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        reshaped = stride != 1 or in_channels != width
        self.shortcut = nn.Conv2d(in_channels, width, 1, stride, bias=False) if reshaped else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        # A shortcut that changes the shape shares the activated input; the identity does not.
        identity = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return out + identity


class PreActResNet(nn.Module):
    """Pre-activation residual network for small images: [N, in_channels, H, W] -> [N, classes].

    Args:
        depths: Blocks per stage.
        widths: Channels per stage; every stage after the first halves the image.
        in_channels: Channels of the image.
        classes: Number of logits.
    """

    def __init__(self, depths: Sequence[int], widths: Sequence[int], in_channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        channels = widths[0]
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for position in range(depth):
                blocks.append(PreActBlock(channels, width, 2 if index and not position else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.blocks(self.conv(x))))
        out: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return out


def preact_resnet(classes: int = 10, size: int = 32, batch: int = 2) -> Built:
    """Zoo entry, six blocks of 16 to 64 channels: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(PreActResNet, (2, 2, 2), (16, 32, 64), classes=classes)
    return finish(make, images(batch, 3, size))


def preact_resnet18(classes: int = 10, size: int = 32, batch: int = 2) -> Built:
    """Pre-activation ResNet-18 for CIFAR, 11.2M parameters: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(PreActResNet, (2, 2, 2, 2), (64, 128, 256, 512), classes=classes)
    return finish(make, images(batch, 3, size))
