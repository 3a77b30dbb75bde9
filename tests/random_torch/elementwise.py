"""Steps that work on each element: activations, arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_torch.program import Layers, Step, Steps, broadcast

if TYPE_CHECKING:
    from tests.random_torch.network import RandomModule

STEPS = Steps()


ACTIVATIONS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    torch.relu, torch.sigmoid, torch.tanh, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.mish, F.elu,
    lambda x: F.elu(x, 0.5), F.selu, lambda x: F.celu(x, 1.5), F.softplus, F.hardswish, F.hardsigmoid, F.relu6,
    lambda x: F.leaky_relu(x, 0.2), F.hardtanh, lambda x: F.hardshrink(x, 0.0), F.softsign, F.logsigmoid, F.tanhshrink,
    torch.sin, torch.cos, torch.erf, torch.abs, torch.neg, torch.square, lambda x: torch.exp(-x.abs()),
    lambda x: torch.log(x.abs() + 1), lambda x: torch.sqrt(x.abs() + 0.1), lambda x: torch.rsqrt(x.abs() + 1),
    lambda x: torch.reciprocal(x.abs() + 1), lambda x: torch.clamp(x, -1, 2), lambda x: torch.clamp(x, min=0.5),
    lambda x: torch.atan(x), lambda x: torch.asinh(x), lambda x: torch.expm1(-x.abs()), lambda x: torch.log1p(x.abs()),
    lambda x: x.abs() ** 1.5, lambda x: x**3, lambda x: 1 - x, lambda x: 2.0 / (x.abs() + 1), lambda x: x * 0.5 + 3,
    lambda x: torch.sinc(x), lambda x: F.threshold(x.abs(), -1, 20), lambda x: torch.logit(torch.sigmoid(x), 1e-3),
    lambda x: F.dropout(x, 0.5, False), lambda x: x.double().sin().float(), lambda x: x.clone(), lambda x: x.detach(),
]  # fmt: skip


@STEPS.add(5)
def _activation(net: RandomModule, i: int) -> Step:
    number = net.rng.randrange(len(ACTIVATIONS))
    return Step(f"activation {number}", ACTIVATIONS[number], [i])


@STEPS.add()
def _prelu(net: RandomModule, i: int) -> Step | None:
    x = net.value(i)
    if x.ndim < 2:
        return None
    layer = nn.PReLU(net.rng.choice([1, x.shape[1]]))
    return Step(str(layer), layer, [i])


BINARY: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [
    torch.add, torch.sub, torch.mul, lambda a, b: a / (b.abs() + 1), torch.maximum, torch.minimum,
    lambda a, b: torch.add(a, b, alpha=2), lambda a, b: torch.rsub(a, b), lambda a, b: torch.lerp(a, b, 0.3),
    lambda a, b: torch.addcmul(a, b, b, value=0.5), lambda a, b: torch.addcdiv(a, b, b.abs() + 1),
    lambda a, b: torch.atan2(a, b.abs() + 1), lambda a, b: torch.hypot(a, b + 0.0), lambda a, b: (a - b).square(),
]  # fmt: skip


@STEPS.add(5)
def _binary(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    j = rng.choice(net.others(lambda y: broadcast(x, y)))
    number = rng.randrange(len(BINARY))
    pair = [i, j] if rng.random() < 0.5 else [j, i]
    return Step(f"binary {number}", BINARY[number], pair)


@STEPS.add(2)
def _with_constant(net: RandomModule, i: int) -> Step:
    """A parameter or buffer of the module itself, of a shape that broadcasts."""
    x, rng = net.value(i), net.rng
    rank = rng.randint(0, x.ndim)
    shape = [d if rng.random() < 0.5 else 1 for d in x.shape[x.ndim - rank :]]
    holder = nn.Module()
    tensor = torch.rand(shape) + 0.5
    if rng.random() < 0.5:
        holder.weight = nn.Parameter(tensor)
    else:
        holder.register_buffer("weight", tensor, persistent=rng.random() < 0.5)
    operation = rng.choice([torch.mul, torch.add, torch.sub, torch.div])
    return Step(f"{operation.__name__} {shape}", Layers(lambda x: operation(x, holder.weight), holder), [i])
