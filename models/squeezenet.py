"""SqueezeNet (Iandola et al. 2016, arXiv:1602.07360), in the layout of its release 1.1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, finish, images


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3 side by side: [N, in, H, W] -> [N, 2*expand, H, W]."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.squeeze_relu = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_relu = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_relu(self.squeeze(x))
        return torch.cat([self.expand1x1_relu(self.expand1x1(x)), self.expand3x3_relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """Fire modules, no normalisation, no linear layer: [N, 3, H, W] -> [N, classes].

    Args:
        stages: Squeeze and expand channels of the fire modules, one sequence per resolution.
        stem: Channels of the first convolution.
        classes: Number of logits, which are the channels of the last convolution.
    """

    def __init__(self, stages: Sequence[Sequence[tuple[int, int]]], stem: int = 64, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, 2), nn.ReLU(inplace=True)]
        channels = stem
        for stage in stages:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            for squeeze, expand in stage:
                layers.append(Fire(channels, squeeze, expand))
                channels = 2 * expand
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Conv2d(channels, classes, 1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                # Without normalisation only the initialisation keeps the scale of the activations.
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


def squeezenet(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, five fire modules: [batch, 3, size, size] -> [batch, classes]."""
    stages = (((16, 32), (16, 32)), ((16, 64), (24, 64)), ((32, 96),))
    return finish(partial(SqueezeNet, stages, 32, classes), images(batch, 3, size))


def squeezenet1_1(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """SqueezeNet 1.1, 1.2M parameters: [batch, 3, size, size] -> [batch, classes]."""
    stages = (
        ((16, 64), (16, 64)),
        ((32, 128), (32, 128)),
        ((48, 192), (48, 192), (64, 256), (64, 256)),
    )
    return finish(partial(SqueezeNet, stages, classes=classes), images(batch, 3, size))
