"""A network that grows step by step."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.random_torch import elementwise, layers, tensors
from tests.random_torch.program import Step

#: In this order, which the seeds of tests go by.
STEPS = (*layers.STEPS, *elementwise.STEPS, *tensors.STEPS)
#: Values with more elements than this are not worked on.
LIMIT = 4096


class RandomModule(nn.Module):
    """A network of `length` steps.

    Args:
        seed: decides everything, weights included.
        length: number of steps.

    Attributes:
        steps: the program.
        example: arguments.
        returned: positions of the values that are returned.
    """

    def __init__(self, seed: int, length: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        try:
            self.layers = nn.ModuleList()
            self.steps: list[Step] = []
            self.example = tuple(self._inputs())
            self._values: list[torch.Tensor] = list(self.example)
            self._exact = [True] * len(self._values)
            for _ in range(length):
                self._grow()
        finally:
            torch.set_rng_state(state)
        count = len(self._values)
        last = range(len(self.example), count)
        self.returned = sorted({count - 1, *self.rng.sample(list(last), min(len(last), self.rng.randint(0, 2)))})
        self.as_dict = self.rng.random() < 0.3
        del self._values
        self.eval()

    def _inputs(self) -> list[torch.Tensor]:
        rng = self.rng
        batch, channels, side = rng.randint(1, 3), rng.choice([2, 3, 4, 6]), rng.randint(4, 7)
        kinds = [(batch, channels, side, side + rng.randint(0, 2)), (batch, rng.randint(2, 6), rng.choice([4, 6, 8]))]
        kinds.append((batch, rng.choice([4, 6])))
        chosen = rng.sample(kinds, rng.choice([1, 1, 2]))
        return [torch.randn(shape) for shape in chosen]

    def _grow(self) -> None:
        rng = self.rng
        for _ in range(20):
            recent = range(max(0, len(self._values) - 4), len(self._values))
            position = rng.choice(recent) if rng.random() < 0.7 else rng.randrange(len(self._values))
            made = rng.choice(STEPS)(self, position)
            if made is None:
                continue
            count = len(self.layers)
            layers = [part for part in _parts(made.call) if isinstance(part, nn.Module)]
            self.layers.extend(layers)
            self.layers.eval()
            try:
                with torch.no_grad():
                    result = made.call(*(self._values[i] for i in made.inputs))
            except RuntimeError:  # nothing is left of an extent
                del self.layers[count:]
                continue
            results = list(result) if isinstance(result, (tuple, list)) else [result]
            if all(_is_fit(each) for each in results):
                self.steps.append(made)
                self._values.extend(results)
                self._exact.extend([made.exact and all(self._exact[i] for i in made.inputs)] * len(results))
                return
            del self.layers[count:]

    # -- what steps ask

    def value(self, position: int) -> torch.Tensor:
        return self._values[position]

    def is_exact(self, position: int) -> bool:
        return self._exact[position]

    def others(self, fits: Callable[[torch.Tensor], bool]) -> list[int]:
        """Positions of values that fit."""
        return [i for i, value in enumerate(self._values) if fits(value)]

    def forward(self, *arguments: torch.Tensor) -> Any:
        values = list(arguments)
        for step in self.steps:
            result = step.call(*(values[i] for i in step.inputs))
            values.extend(result if isinstance(result, (tuple, list)) else [result])
        chosen = [values[i] for i in self.returned]
        if self.as_dict:
            return {f"out{i}": value for i, value in zip(self.returned, chosen, strict=True)}
        return tuple(chosen) if len(chosen) > 1 else chosen[0]

    def describe(self) -> str:
        """The program as text."""
        shapes = ", ".join(str(list(each.shape)) for each in self.example)
        lines = [f"inputs {shapes}", *(f"{step.name} of {list(step.inputs)}" for step in self.steps)]
        return "\n".join([*lines, f"returns {self.returned}"])


def _parts(call: Any) -> list[Any]:
    return [call, *getattr(call, "layers", ())]


def _is_fit(value: Any) -> bool:
    """A float tensor of a fair size and magnitude."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or not 0 < value.numel() <= LIMIT:
        return False
    return value.ndim <= 5 and bool(torch.isfinite(value).all()) and float(value.abs().max()) < 50
