"""A network with two inputs and a dictionary of two outputs, as multi-modal models have."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, ConvBnAct, finish, images


class ImageVectorNet(nn.Module):
    """Late fusion of an image and a feature vector.

    Inputs are `image` [N, 3, H, W] and `vector` [N, features]; the output is a dictionary of "logits",
    [N, classes], and "embedding", [N, dim], the latter of unit length.

    Args:
        features: Length of the vector.
        width: Channels of the first convolution; each later one doubles them.
        dim: Features of the embedding.
        classes: Number of logits.
    """

    def __init__(self, features: int = 24, width: int = 16, dim: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.image_branch = nn.Sequential(
            ConvBnAct(3, width, 3, 2),
            ConvBnAct(width, 2 * width, 3, 2),
            ConvBnAct(2 * width, 4 * width, 3, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.vector_branch = nn.Sequential(
            nn.Linear(features, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4 * width), nn.ReLU()
        )
        self.fusion = nn.Sequential(nn.Linear(8 * width, 256), nn.ReLU(), nn.Linear(256, dim))
        self.classifier = nn.Linear(dim, classes)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([self.image_branch(image), self.vector_branch(vector)], 1)
        embedding = self.fusion(joined)
        return {
            "logits": self.classifier(embedding),
            "embedding": nn.functional.normalize(embedding, dim=1),
        }


def image_vector(classes: int = 10, size: int = 32, batch: int = 2) -> Built:
    """Zoo entry: [batch, 3, size, size], [batch, 24] -> logits [batch, classes], embedding [batch, 64]."""
    vector = images(batch, 1, 1, 24).flatten(1)
    return finish(partial(ImageVectorNet, classes=classes), images(batch, 3, size), vector)
