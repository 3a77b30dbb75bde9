"""What the model families of the zoo share: building blocks, example inputs, the seeded end of a build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Built: TypeAlias = tuple[nn.Module, tuple[Any, ...]]
"""What every builder returns: the module in eval mode and example positional arguments."""


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a channel count to a multiple of `divisor`, never losing over a tenth (the MobileNet rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class ConvBnAct(nn.Module):
    """Convolution without bias, batch norm, activation: [N, in, H, W] -> [N, out, H/stride, W/stride].

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Odd kernel size; padding keeps the spatial size at stride 1.
        stride: Spatial stride.
        groups: Convolution groups; `in_channels` makes it depthwise.
        act: Activation class, or None for a linear output.
        eps: Epsilon of the batch normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: Callable[[], nn.Module] | None = nn.ReLU,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=eps)
        self.act = nn.Identity() if act is None else act()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class SqueezeExcite(nn.Module):
    """Channel gate from the global average, [N, C, H, W] -> same (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(
        self,
        channels: int,
        squeezed: int,
        act: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.act = act()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.fc2(self.act(self.fc1(self.avgpool(x)))))
        return x * scale


class Mlp(nn.Module):
    """Two linear layers with GELU between, over the last dimension: [..., dim] -> [..., dim]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """Learned per-channel factor on the last dimension (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, dim: int, init: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def images(batch: int, channels: int, height: int, width: int | None = None) -> Tensor:
    """Standard normal images [batch, channels, height, width], the same on every call."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, height, width or height, generator=generator)


def tokens(batch: int, length: int, vocabulary: int) -> Tensor:
    """Token ids [batch, length] below `vocabulary`, the same on every call."""
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


def finish(make: Callable[[], nn.Module], *args: Any) -> Built:
    """Build a module deterministically and make its normalisation layers look trained.

    Fresh batch norms are the identity up to epsilon, so a wrong fusion would go unseen. Here their affine
    parameters are random, and the running statistics are those of the example input, jittered: activations
    stay well scaled however deep the network. The global random state is left as it was.

    Args:
        make: Constructs the module.
        *args: Example positional arguments of its forward.

    Returns:
        The module in eval mode and `args`.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # torch.manual_seed would reseed accelerators as well, and those are not forked.
        torch.default_generator.manual_seed(0)
        module = make().eval()
        _randomize_affine(module)
        _calibrate_batch_norms(module, args)
    return module, args


def _randomize_affine(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            if layer.weight is not None:
                layer.weight.uniform_(0.5, 1.5)
            if layer.bias is not None:
                layer.bias.normal_(0.0, 0.2)
        elif isinstance(layer, LayerScale):
            layer.gamma.uniform_(0.1, 1.0)


def _calibrate_batch_norms(module: nn.Module, args: tuple[Any, ...]) -> None:
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    hooks = [layer.register_forward_pre_hook(_adopt_statistics) for layer in norms]
    module(*args)
    for hook in hooks:
        hook.remove()


def _adopt_statistics(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Set the running statistics of a batch norm from the input it is about to normalise."""
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    x: Tensor = args[0]
    dims = [dim for dim in range(x.dim()) if dim != 1]
    # The layer's mean square keeps a channel from being blown up where a few samples happen to agree.
    var = 0.5 * x.var(dims, correction=0) + 0.5 * x.square().mean()
    mean = x.mean(dims) + 0.1 * var.sqrt() * torch.randn_like(var)
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var * torch.empty_like(var).uniform_(0.7, 1.4))
