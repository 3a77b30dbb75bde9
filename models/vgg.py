"""VGG with batch normalisation (Simonyan & Zisserman 2015, arXiv:1409.1556)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, finish, images


class VGG(nn.Module):
    """Plain stack of 3x3 convolutions, a max pool after every stage: [N, in_channels, H, W] -> [N, classes].

    Args:
        stages: Output channels of each convolution, one sequence per stage.
        hidden: Features of the two hidden linear layers.
        pooled: Spatial size that the features are pooled to before they are flattened.
        in_channels: Channels of the image.
        classes: Number of logits.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        hidden: int = 4096,
        pooled: int = 7,
        in_channels: int = 3,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in stages:
            for width in stage:
                # The convolutions keep their bias, as in the original without normalisation.
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        self.classifier = nn.Sequential(
            nn.Linear(channels * pooled * pooled, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.features(x)), 1)
        out: Tensor = self.classifier(x)
        return out


def vgg(classes: int = 10, size: int = 32, batch: int = 2) -> Built:
    """Zoo entry, a narrow VGG-8: [batch, 3, size, size] -> [batch, classes]."""
    stages = ((16, 16), (32, 32), (64,))
    return finish(partial(VGG, stages, 128, 2, classes=classes), images(batch, 3, size))


def vgg11_bn(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """VGG-11 with batch normalisation, 133M parameters: [batch, 3, size, size] -> [batch, classes]."""
    stages = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    return finish(partial(VGG, stages, classes=classes), images(batch, 3, size))


def vgg16_bn(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """VGG-16 with batch normalisation, 138M parameters: [batch, 3, size, size] -> [batch, classes]."""
    stages = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    return finish(partial(VGG, stages, classes=classes), images(batch, 3, size))
