"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from .layers import Built, LayerScale, Mlp, finish, images


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a channels-first image: [N, C, H, W] -> same."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then a channels-last MLP with layer scale, and a shortcut: [N, C, H, W] -> same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)
        self.scale = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        out = self.dwconv(x).permute(0, 2, 3, 1)
        out = self.scale(self.mlp(self.norm(out)))
        result: Tensor = x + out.permute(0, 3, 1, 2)
        return result


class ConvNeXt(nn.Module):
    """ConvNeXt, without stochastic depth: [N, 3, H, W] -> [N, classes].

    Args:
        depths: Blocks per stage.
        dims: Channels per stage.
        classes: Number of logits.
    """

    def __init__(self, depths: Sequence[int], dims: Sequence[int], classes: int = 1000) -> None:
        super().__init__()
        channels = dims[0]
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, 4), LayerNorm2d(channels, eps=1e-6)]
        for index, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            if index:
                layers += [LayerNorm2d(channels, eps=1e-6), nn.Conv2d(channels, dim, 2, 2)]
            layers += [ConvNeXtBlock(dim) for _ in range(depth)]
            channels = dim
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.features(x).mean([-2, -1])))
        return out


def convnext(classes: int = 10, size: int = 64, batch: int = 2) -> Built:
    """Zoo entry, five blocks of 32 to 128 channels: [batch, 3, size, size] -> [batch, classes]."""
    return finish(partial(ConvNeXt, (1, 2, 2), (32, 64, 128), classes), images(batch, 3, size))


def convnext_tiny(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """ConvNeXt-T, 28.6M parameters: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768), classes)
    return finish(make, images(batch, 3, size))
