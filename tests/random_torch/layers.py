"""Steps with layers: convolutions, matrix products, normalisations, pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from tests.random_torch.program import Layers, Step, Steps, divisor

if TYPE_CHECKING:
    from tests.random_torch.network import RandomModule

STEPS = Steps()


@STEPS.add(4)
def _convolution(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim not in (3, 4):
        return None
    inside, kernel, dilation = x.shape[1], rng.choice([1, 2, 3]), rng.choice([1, 1, 2])
    padding = rng.choice([0, 1, kernel // 2])
    if min(x.shape[2:]) + 2 * padding < dilation * (kernel - 1) + 1:
        return None
    groups = divisor(rng, inside)
    outside = groups * rng.randint(1, 2)
    options: dict[str, Any] = {"stride": rng.choice([1, 1, 2]), "groups": groups, "bias": rng.random() < 0.5}
    if rng.random() < 0.25:
        kind = nn.ConvTranspose1d if x.ndim == 3 else nn.ConvTranspose2d
        layer = kind(inside, outside, kernel, padding=min(padding, kernel - 1), **options)
    else:
        kind = nn.Conv1d if x.ndim == 3 else nn.Conv2d
        mode = rng.choice(["zeros", "zeros", "reflect", "replicate"]) if 0 < padding < min(x.shape[2:]) else "zeros"
        layer = kind(inside, outside, kernel, padding=padding, dilation=dilation, padding_mode=mode, **options)
    return Step(str(layer), layer, [i])


@STEPS.add(3)
def _linear(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim < 2:
        return None
    tied = [layer for layer in net.layers if isinstance(layer, nn.Linear) and layer.in_features == x.shape[-1]]
    if tied and rng.random() < 0.3:
        layer = rng.choice(tied)
        return Step(f"again {layer}", Layers(layer), [i])
    layer = nn.Linear(x.shape[-1], rng.choice([2, 4, 6]), bias=rng.random() < 0.7)
    return Step(str(layer), layer, [i])


@STEPS.add(4)
def _normalisation(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim < 2:
        return None
    channels = x.shape[1]
    choices: list[Callable[[], nn.Module]] = [
        lambda: nn.LayerNorm(list(x.shape[-rng.randint(1, x.ndim - 1) :]), elementwise_affine=rng.random() < 0.7),
        lambda: nn.RMSNorm(x.shape[-1], eps=1e-5),
    ]
    if x.ndim in (2, 3):
        choices.append(lambda: nn.BatchNorm1d(channels, affine=rng.random() < 0.8))
    if x.ndim == 4:
        choices.append(lambda: nn.BatchNorm2d(channels))
        choices.append(lambda: nn.LocalResponseNorm(rng.choice([2, 3])))
    if x.ndim > 2 and x[0, 0].numel() > 1:
        choices.append(lambda: nn.GroupNorm(divisor(rng, channels), channels, affine=rng.random() < 0.7))
        choices.append(lambda: {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[x.ndim](channels))
    layer = rng.choice(choices)()
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 1.5)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return Step(str(layer), layer, [i])


@STEPS.add(3)
def _pool(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim not in (3, 4) or min(x.shape[2:]) < 2:
        return None
    flat = x.ndim == 3
    kernel, stride, ceil = 2, rng.choice([1, 2]), rng.random() < 0.3
    padding = rng.choice([0, 1])
    layer = rng.choice(
        [
            lambda: (nn.MaxPool1d if flat else nn.MaxPool2d)(kernel, stride, padding, ceil_mode=ceil),
            lambda: (nn.AvgPool1d if flat else nn.AvgPool2d)(
                kernel, stride, padding, ceil_mode=ceil, count_include_pad=rng.random() < 0.5
            ),
            lambda: (nn.AdaptiveAvgPool1d if flat else nn.AdaptiveAvgPool2d)(rng.choice([1, 2])),
            lambda: (nn.AdaptiveMaxPool1d if flat else nn.AdaptiveMaxPool2d)(1),
            lambda: (nn.LPPool1d if flat else nn.LPPool2d)(2, kernel, stride),
        ]
    )()
    return Step(str(layer), layer, [i])
