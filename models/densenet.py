"""DenseNet-BC (Huang et al. 2017, arXiv:1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, finish, images


class DenseLayer(nn.Module):
    """Pre-activated 1x1 and 3x3 convolution over all features so far: [N, in, H, W] -> [N, growth, H, W]."""

    def __init__(self, in_channels: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        inner = bottleneck * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        out: Tensor = self.conv2(self.relu2(self.norm2(x)))
        return out


class DenseBlock(nn.Module):
    """Layers that each read every earlier output: [N, in, H, W] -> [N, in + depth*growth, H, W]."""

    def __init__(self, depth: int, in_channels: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(in_channels + index * growth, growth, bottleneck) for index in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


def _transition(in_channels: int) -> nn.Sequential:
    """Halve channels and image: [N, in, H, W] -> [N, in/2, H/2, W/2]."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, in_channels // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )


class DenseNet(nn.Module):
    """Densely connected network: [N, 3, H, W] -> [N, classes].

    Args:
        depths: Layers per dense block.
        growth: Channels that every layer adds.
        stem: Channels of the first convolution.
        bottleneck: Width of a layer's 1x1 convolution, in multiples of `growth`.
        classes: Number of logits.
    """

    def __init__(
        self,
        depths: Sequence[int],
        growth: int = 32,
        stem: int = 64,
        bottleneck: int = 4,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        channels = stem
        stages: list[nn.Module] = []
        for index, depth in enumerate(depths):
            stages.append(DenseBlock(depth, channels, growth, bottleneck))
            channels += depth * growth
            if index + 1 < len(depths):
                stages.append(_transition(channels))
                channels //= 2
        self.features = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.features(self.stem(x))))
        out: Tensor = self.classifier(torch.flatten(self.avgpool(x), 1))
        return out


def densenet(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, three blocks with growth 16: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(DenseNet, (3, 4, 4), growth=16, stem=32, classes=classes)
    return finish(make, images(batch, 3, size))


def densenet121(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """DenseNet-121, 8.0M parameters: [batch, 3, size, size] -> [batch, classes]."""
    return finish(partial(DenseNet, (6, 12, 24, 16), classes=classes), images(batch, 3, size))
