"""Sample inputs, made from nothing but the types of a graph's inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from graphopt.errors import DataError
from graphopt.ir import DType, Graph, TensorType, Value
from graphopt.ir import dims as D

# Two differs from one, so that a batch that was folded away shows; more costs time.
DEFAULT_SIZE = 2
#: Larger inputs are not made up: a damaged file may ask for anything.
MAX_ELEMENTS = 1 << 28


def example_inputs(graph: Graph, seed: int = 0, sizes: Mapping[str, int] | None = None) -> list[torch.Tensor]:
    """Random tensors that the graph accepts: normal floats, and zeros and ones for integers (valid as any index).

    Args:
        graph: the graph.
        seed: of the random numbers.
        sizes: sizes of named dimensions; the others, and unknown ones, are 2.

    Raises:
        DataError: an input is no tensor of numbers, or one of more than `MAX_ELEMENTS`.
    """
    generator = torch.Generator().manual_seed(seed)
    return [_example(value, generator, sizes or {}) for value in graph.inputs]


def _example(value: Value, generator: torch.Generator, sizes: Mapping[str, int]) -> torch.Tensor:
    if value.data is not None:
        return value.data
    kind = value.type
    if not isinstance(kind, TensorType) or kind.dtype is DType.STRING:
        raise DataError(
            f"input '{value.name}' is {kind}, for which nothing can be made up", where=value.name, hint="give data"
        )
    if kind.dtype is DType.UNDEFINED:
        kind = TensorType(DType.FLOAT32, kind.shape)
    shape = [_extent(dim, sizes) for dim in kind.shape or ()]
    if math.prod(shape) > MAX_ELEMENTS:
        raise DataError(
            f"input '{value.name}' has {math.prod(shape):.1e} elements, too many to make up", where=value.name,
            hint="give data",
        )  # fmt: skip
    if kind.dtype is DType.BOOL:
        return torch.ones(shape, dtype=torch.bool)
    if kind.dtype.is_integer:
        return torch.randint(0, 2, shape, generator=generator).to(kind.dtype.torch)
    return torch.randn(shape, generator=generator).to(kind.dtype.torch)


def _extent(dim: D.Dim, sizes: Mapping[str, int]) -> int:
    names = D.free_names(dim)
    bound = D.substitute(dim, {name: sizes.get(name, DEFAULT_SIZE) for name in names})
    return bound if isinstance(bound, int) else DEFAULT_SIZE
