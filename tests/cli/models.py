"""Models that the tests name on the command line, as ``tests.cli.models:function``."""

import torch
from torch import nn


def small():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    return module.eval(), (torch.randn(2, 3, 8, 8),)


def single_argument():
    return nn.Linear(3, 2), torch.randn(2, 3)


class DataDependent(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


def data_dependent():
    return DataDependent(), (torch.randn(2, 3),)


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def without_onnx():
    """An operator that ONNX does not have."""
    return Bessel(), (torch.randn(3),)


def raises():
    raise RuntimeError("the weights\nare not here")


def no_module():
    return 3


NOT_CALLABLE = 1
