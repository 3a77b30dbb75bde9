"""MLP-Mixer (Tolstikhin et al. 2021, arXiv:2105.01601)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .layers import Built, Mlp, finish, images


class MixerBlock(nn.Module):
    """An MLP across the patches, then one across the channels: [N, patches, dim] -> same."""

    def __init__(self, patches: int, dim: int, token_hidden: int, channel_hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.token_mlp = Mlp(patches, token_hidden)
        self.norm2 = nn.LayerNorm(dim)
        self.channel_mlp = Mlp(dim, channel_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mlp(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channel_mlp(self.norm2(x))
        return out


class MlpMixer(nn.Module):
    """MLP-Mixer: [N, 3, size, size] -> [N, classes].

    Args:
        size: Height and width of the image.
        patch: Height and width of a patch.
        dim: Channels per patch.
        depth: Number of blocks.
        token_hidden: Hidden features of the MLPs across patches.
        channel_hidden: Hidden features of the MLPs across channels.
        classes: Number of logits.
    """

    def __init__(
        self,
        size: int,
        patch: int,
        dim: int,
        depth: int,
        token_hidden: int,
        channel_hidden: int,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        patches = (size // patch) ** 2
        self.stem = nn.Conv2d(3, dim, patch, patch)
        self.blocks = nn.Sequential(*[MixerBlock(patches, dim, token_hidden, channel_hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(x)).mean(1)
        out: Tensor = self.head(x)
        return out


def mlp_mixer(classes: int = 10, size: int = 32, batch: int = 2) -> Built:
    """Zoo entry, three blocks over 16 patches: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(MlpMixer, size, 8, 64, 3, 32, 256, classes)
    return finish(make, images(batch, 3, size))


def mixer_base(classes: int = 1000, size: int = 224, batch: int = 1) -> Built:
    """Mixer-B/16, 59.9M parameters: [batch, 3, size, size] -> [batch, classes]."""
    make = partial(MlpMixer, size, 16, 768, 12, 384, 3072, classes)
    return finish(make, images(batch, 3, size))
