"""What random modules are made of: steps, and the lists of what makes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from tests.random_torch.network import RandomModule


@dataclass
class Step:
    """One application: `call` on the values at `inputs`; `exact` when it only moves elements of exact values."""

    name: str
    call: Callable[..., Any]
    inputs: Sequence[int]
    exact: bool = False


#: Makes a step that starts from the value at a position of a network; ``None`` when that value does not suit it.
Maker = Callable[["RandomModule", int], "Step | None"]


class Steps(list[Maker]):
    """Makers of steps, each as often as its weight."""

    def add(self, weight: int = 1) -> Callable[[Maker], Maker]:
        """Decorator of a maker."""

        def decorate(maker: Maker) -> Maker:
            self.extend([maker] * weight)
            return maker

        return decorate


class Layers:
    """A function that uses layers."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        self.function = function
        self.layers = layers

    def __call__(self, *arguments: torch.Tensor) -> Any:
        return self.function(*arguments)


def divisor(rng: random.Random, number: int) -> int:
    return rng.choice([d for d in range(1, number + 1) if number % d == 0])


def broadcast(x: torch.Tensor, y: torch.Tensor) -> bool:
    try:
        return len(torch.broadcast_shapes(x.shape, y.shape)) <= 5
    except RuntimeError:
        return False
