"""A whole random model: inputs, steps, outputs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch

from graphopt.ir import DType, Graph
from tests.random_onnx.grower import OPSETS, Grower, Item
from tests.random_onnx.plain import Writer


@dataclass(frozen=True)
class RandomModel:
    """A random model.

    Attributes:
        model: as written without graphopt.
        graph: that it was grown as.
        inputs: for each of the sizes of its open dimensions.
    """

    model: onnx.ModelProto
    graph: Graph
    inputs: Sequence[Sequence[torch.Tensor]]


def random_model(rng: random.Random, steps: int) -> RandomModel:
    """A model of about `steps` operators or motifs; `rng` decides everything."""
    opset = rng.choice(OPSETS)
    grower = Grower(rng, opset)
    for add in rng.sample(_INPUTS, rng.choice([1, 2, 2, 3])):
        add(grower)
    grower.grow(steps)
    for item in _returned(grower):
        grower.graph.add_output(item.value)
    inputs = [[env[value] for value in grower.graph.inputs] for env in grower.env]
    floats = [v for v in grower.graph.constants if v.dtype is DType.FLOAT32 and v.uses]
    defaults = rng.sample(floats, 1) if floats and rng.random() < 0.1 else []
    return RandomModel(Writer(opset, defaults).model(grower.graph), grower.graph, inputs)


def _returned(grower: Grower) -> list[Item]:
    """What nothing reads, and some of the rest; now and then an input."""
    rng, given = grower.rng, set(grower.graph.inputs)
    made = [item for item in grower.pool if item.value not in given]
    leaves = [item for item in made if not item.value.uses]
    some = rng.sample(made, min(len(made), rng.randint(0, 2)))
    passed = rng.sample(grower.pool[:1], 1) if rng.random() < 0.1 or not made else []
    return list(dict.fromkeys([*leaves, *some, *passed]))


def _normal(grower: Grower) -> Any:
    return lambda shape: torch.randn(shape, generator=grower.noise)


def _image(g: Grower) -> None:
    side = g.rng.choice([4, 5, 6])
    shape = (g.rng.choice(["n", "n", 2]), g.rng.choice([2, 3, 4]), side, g.rng.choice([side, 4, "s"]))
    g.add_input(DType.FLOAT32, shape, _normal(g))


def _sequence(g: Grower) -> None:
    shape = (g.rng.choice(["n", "n", 2]), g.rng.choice(["s", 4]), g.rng.choice([4, 6]))
    g.add_input(DType.FLOAT32, shape, _normal(g))


def _matrix(g: Grower) -> None:
    g.add_input(DType.FLOAT32, (g.rng.choice(["n", "n", 3]), g.rng.choice([4, 6])), _normal(g))


def _numbers(g: Grower) -> None:
    dtype = g.rng.choice([DType.INT64, DType.INT64, DType.INT32, DType.UINT8])
    low = 0 if dtype is DType.UINT8 else -4
    shape: tuple[Any, ...] = g.rng.choice([("n",), ("n", 4), ("n", "s"), (3,)])
    g.add_input(dtype, shape, lambda size: torch.randint(low, 9, size, generator=g.noise).to(dtype.torch))


def _mask(g: Grower) -> None:
    shape: tuple[Any, ...] = g.rng.choice([("n", 1), ("n", 4), (1,)])
    g.add_input(DType.BOOL, shape, lambda size: torch.rand(size, generator=g.noise) < 0.5)


_INPUTS = (_image, _sequence, _matrix, _numbers, _mask)
