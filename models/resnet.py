"""ResNet (He et al. 2016, arXiv:1512.03385) and ResNeXt (Xie et al. 2017, arXiv:1611.05431)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, finish, images


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Shortcut of a block whose output differs in shape from its input; None is the identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, in, H, W] -> [N, width, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, groups: int, group_width: int) -> None:
        super().__init__()
        if groups != 1 or group_width != 64:
            raise ValueError("a basic block has no grouped convolution")
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 (perhaps grouped), 1x1 and a shortcut: [N, in, H, W] -> [N, 4*width, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, groups: int, group_width: int) -> None:
        super().__init__()
        inner = width * groups * group_width // 64
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        result: Tensor = self.relu(out)
        return result


class ResNet(nn.Module):
    """Residual network: [N, in_channels, H, W] -> [N, classes].

    Args:
        block: Residual block of every stage.
        depths: Blocks per stage.
        widths: Block width per stage; a bottleneck's output is four times as wide.
        groups: Groups of the bottlenecks' 3x3 convolution (ResNeXt's cardinality).
        group_width: Channels per group at a width of 64.
        small_images: A 3x3 stem at full resolution, for images of about 32x32.
        in_channels: Channels of the image.
        classes: Number of logits.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        *,
        groups: int = 1,
        group_width: int = 64,
        small_images: bool = False,
        in_channels: int = 3,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        channels = widths[0]
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        stages: list[nn.Module] = []
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if index and not position else 1
                blocks.append(block(channels, width, stride, groups, group_width))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layers = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = torch.flatten(self.avgpool(self.layers(x)), 1)
        out: Tensor = self.fc(x)
        return out


def resnet(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, a ResNet-18 of quarter width: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(ResNet, BasicBlock, (2, 2, 2, 2), (16, 32, 64, 128), classes=classes)
    return finish(make, images(batch, 3, size))


def resnet_bottleneck(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, a narrow ResNet-20 of bottlenecks: [batch, 3, size, size] -> [batch, classes]."""
    return finish(partial(ResNet, Bottleneck, (2, 2, 2), (16, 32, 64), classes=classes), images(batch, 3, size))


def resnext(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, a narrow ResNeXt with 8 groups: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(ResNet, Bottleneck, (2, 2, 2), (32, 64, 128), groups=8, group_width=8, classes=classes)
    return finish(make, images(batch, 3, size))


def resnet18(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """ResNet-18, 11.7M parameters: [batch, 3, size, size] -> [batch, classes]."""
    return finish(partial(ResNet, BasicBlock, (2, 2, 2, 2), classes=classes), images(batch, 3, size))


def resnet34(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """ResNet-34, 21.8M parameters: [batch, 3, size, size] -> [batch, classes]."""
    return finish(partial(ResNet, BasicBlock, (3, 4, 6, 3), classes=classes), images(batch, 3, size))


def resnet50(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """ResNet-50, 25.6M parameters: [batch, 3, size, size] -> [batch, classes]."""
    return finish(partial(ResNet, Bottleneck, (3, 4, 6, 3), classes=classes), images(batch, 3, size))


def resnext50(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """ResNeXt-50 32x4d, 25.0M parameters: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(ResNet, Bottleneck, (3, 4, 6, 3), groups=32, group_width=4, classes=classes)
    return finish(make, images(batch, 3, size))


def resnet20(in_channels: int = 3, classes: int = 10, size: int = 32, batch: int = 2) -> Built:
    """The paper's CIFAR ResNet-20 with projection shortcuts, for 28x28 or 32x32 images.

    Shapes: [batch, in_channels, size, size] -> [batch, classes]; 0.27M parameters.
    """
    make = partial(
        ResNet,
        BasicBlock,
        (3, 3, 3),
        (16, 32, 64),
        small_images=True,
        in_channels=in_channels,
        classes=classes,
    )
    return finish(make, images(batch, in_channels, size))
