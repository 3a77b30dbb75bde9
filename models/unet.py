"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, ConvBnAct, finish, images


class Up(nn.Module):
    """Double the image, join the skip connection: [N, in, H, W], [N, out, 2H, 2W] -> [N, out, 2H, 2W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, 2)
        self.conv1 = ConvBnAct(2 * out_channels, out_channels, 3)
        self.conv2 = ConvBnAct(out_channels, out_channels, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat([skip, self.up(x)], 1)
        out: Tensor = self.conv2(self.conv1(x))
        return out


class UNet(nn.Module):
    """U-Net with batch norm and padded convolutions: [N, in_channels, H, W] -> [N, classes, H, W].

    H and W must be divisible by 2 to the power of the number of resolutions after the first.

    Args:
        widths: Channels at each resolution, finest first.
        in_channels: Channels of the image.
        classes: Number of output maps.
    """

    def __init__(
        self, widths: Sequence[int] = (64, 128, 256, 512, 1024), in_channels: int = 3, classes: int = 2
    ) -> None:
        super().__init__()
        channels = in_channels
        encoder: list[nn.Module] = []
        for width in widths:
            encoder.append(nn.Sequential(ConvBnAct(channels, width, 3), ConvBnAct(width, width, 3)))
            channels = width
        self.encoder = nn.ModuleList(encoder)
        self.pool = nn.MaxPool2d(2)
        decoder: list[nn.Module] = []
        for width in reversed(widths[:-1]):
            decoder.append(Up(channels, width))
            channels = width
        self.decoder = nn.ModuleList(decoder)
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for index, level in enumerate(self.encoder):
            x = level(self.pool(x) if index else x)
            skips.append(x)
        skips.pop()
        for level in self.decoder:
            x = level(x, skips.pop())
        out: Tensor = self.head(x)
        return out


def unet(classes: int = 2, size: int = 32, batch: int = 2) -> Built:
    """Zoo entry, 8 to 64 channels: [batch, 3, size, size] -> [batch, classes, size, size]."""
    return finish(partial(UNet, (8, 16, 32, 64), classes=classes), images(batch, 3, size))


def unet_base64(classes: int = 2, size: int = 256, batch: int = 1) -> Built:
    """U-Net at full width, 31.0M parameters: [batch, 3, size, size] -> [batch, classes, size, size]."""
    return finish(partial(UNet, classes=classes), images(batch, 3, size))
