"""ShuffleNetV2 (Ma et al. 2018, arXiv:1807.11164)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, ConvBnAct, finish, images


def channel_shuffle(x: Tensor, groups: int = 2) -> Tensor:
    """Interleave the channels of the groups, [N, C, H, W] -> same, by view and transpose."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half the channels pass, the other half is convolved, then both are shuffled: [N, C, H, W] -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch2 = nn.Sequential(
            ConvBnAct(half, half), ConvBnAct(half, half, 3, groups=half, act=None), ConvBnAct(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, convolved = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat([kept, self.branch2(convolved)], 1))


class ShuffleDownsample(nn.Module):
    """Both branches read all channels and halve the image: [N, in, H, W] -> [N, out, H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.branch1 = nn.Sequential(
            ConvBnAct(in_channels, in_channels, 3, 2, in_channels, act=None), ConvBnAct(in_channels, half)
        )
        self.branch2 = nn.Sequential(
            ConvBnAct(in_channels, half), ConvBnAct(half, half, 3, 2, half, act=None), ConvBnAct(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(torch.cat([self.branch1(x), self.branch2(x)], 1))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2: [N, 3, H, W] -> [N, classes].

    Args:
        depths: Units per stage, the first of which halves the image.
        widths: Channels of each stage.
        stem: Channels of the first convolution.
        head: Channels of the last convolution.
        classes: Number of logits.
    """

    def __init__(self, depths: Sequence[int], widths: Sequence[int], stem: int, head: int, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = ConvBnAct(3, stem, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        stages: list[nn.Module] = []
        channels = stem
        for depth, width in zip(depths, widths, strict=True):
            units: list[nn.Module] = [ShuffleDownsample(channels, width)]
            units += [ShuffleUnit(width) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*units))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.conv5 = ConvBnAct(channels, head)
        self.fc = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stages(self.maxpool(self.conv1(x))))
        out: Tensor = self.fc(x.mean([2, 3]))
        return out


def shufflenet_v2(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, seven units of 48 to 192 channels: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(ShuffleNetV2, (2, 3, 2), (48, 96, 192), 16, 256, classes)
    return finish(make, images(batch, 3, size))


def shufflenet_v2_x1(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """ShuffleNetV2 1.0x, 2.3M parameters: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(ShuffleNetV2, (4, 8, 4), (116, 232, 464), 24, 1024, classes)
    return finish(make, images(batch, 3, size))
