"""LeNet-5 (LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition")."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .layers import Built, finish, images


class LeNet(nn.Module):
    """LeNet-5 with today's ReLU and max pooling: [N, in_channels, 28, 28] -> [N, classes].

    Args:
        in_channels: Channels of the image.
        classes: Number of logits.
        widths: Channels of the two convolutions, then features of the two hidden linear layers.
    """

    def __init__(
        self, in_channels: int = 1, classes: int = 10, widths: tuple[int, int, int, int] = (6, 16, 120, 84)
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(widths[1] * 5 * 5, widths[2])
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(widths[2], widths[3])
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.flatten(self.pool2(self.relu2(self.conv2(x))))
        x = self.relu4(self.fc2(self.relu3(self.fc1(x))))
        out: Tensor = self.fc3(x)
        return out


def lenet(in_channels: int = 1, classes: int = 10, batch: int = 2) -> Built:
    """Zoo entry, at the paper's full size: [batch, in_channels, 28, 28] -> [batch, classes]."""
    return finish(partial(LeNet, in_channels, classes), images(batch, in_channels, 28))
