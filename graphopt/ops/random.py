"""Random tensors. With a seed they are the same on every run of graphopt, though not those of another runtime."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.ir import DType, Node, TensorType, ValueType
from graphopt.ops.creation import given_dtype
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels


def _generator(seed: float | None, device: torch.device | None = None) -> torch.Generator | None:
    if seed is None:
        return None
    return torch.Generator(device or "cpu").manual_seed(int(seed))


def random_normal(
    *, shape: Sequence[int], dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> torch.Tensor:
    """ONNX RandomNormal: mean `mean`, standard deviation `scale`."""
    drawn = torch.randn(tuple(shape), generator=_generator(seed))
    return (drawn * scale + mean).to(DType(dtype).torch)


def random_uniform(
    *, shape: Sequence[int], dtype: int = 1, high: float = 1.0, low: float = 0.0, seed: float | None = None
) -> torch.Tensor:
    """ONNX RandomUniform: between `low` and `high`."""
    drawn = torch.rand(tuple(shape), generator=_generator(seed))
    return (drawn * (high - low) + low).to(DType(dtype).torch)


def random_normal_like(
    x: torch.Tensor,
    *,
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> torch.Tensor:
    """ONNX RandomNormalLike: the shape of `x`, and its dtype unless given."""
    kind = x.dtype if dtype is None else DType(dtype).torch
    drawn = torch.randn(x.shape, device=x.device, generator=_generator(seed, x.device))
    return (drawn * scale + mean).to(kind)


def random_uniform_like(
    x: torch.Tensor,
    *,
    dtype: int | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
) -> torch.Tensor:
    """ONNX RandomUniformLike: the shape of `x`, and its dtype unless given."""
    kind = x.dtype if dtype is None else DType(dtype).torch
    drawn = torch.rand(x.shape, device=x.device, generator=_generator(seed, x.device))
    return (drawn * (high - low) + low).to(kind)


def bernoulli(x: torch.Tensor, *, dtype: int | None = None, seed: float | None = None) -> torch.Tensor:
    """ONNX Bernoulli: 1 with probability `x`, else 0."""
    drawn = torch.rand(x.shape, device=x.device, generator=_generator(seed, x.device))
    return (drawn < x).to(x.dtype if dtype is None else DType(dtype).torch)


def multinomial(x: torch.Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> torch.Tensor:
    """ONNX Multinomial: x [batch, classes] holds unnormalised log-probabilities; gives class indices."""
    drawn = torch.multinomial(
        x.float().softmax(-1), sample_size, replacement=True, generator=_generator(seed, x.device)
    )
    return drawn.to(DType(dtype).torch)


def infer_from_attributes(node: Node) -> list[ValueType]:
    return [TensorType(DType(attribute(node, "dtype")), tuple(attribute(node, "shape")))]


def infer_like(node: Node) -> list[ValueType]:
    return [TensorType(given_dtype(node), input_type(node, 0).shape)]


def infer_multinomial(node: Node) -> list[ValueType]:
    shape = input_type(node, 0).shape
    batch = None if shape is None else shape[0]
    return [TensorType(DType(attribute(node, "dtype")), (batch, attribute(node, "sample_size")))]


def relate_like(node: Node) -> Relation:
    return labels(node, "... -> ...")


register(
    Operator("RandomNormal", infer_from_attributes, random_normal, random=True),
    Operator("RandomUniform", infer_from_attributes, random_uniform, random=True),
    Operator("RandomNormalLike", infer_like, random_normal_like, relate_like, random=True),
    Operator("RandomUniformLike", infer_like, random_uniform_like, relate_like, random=True),
    Operator("Bernoulli", infer_like, bernoulli, relate_like, random=True),
    Operator("Multinomial", infer_multinomial, multinomial, random=True),
)

__all__ = [
    "bernoulli", "multinomial", "random_normal", "random_normal_like", "random_uniform", "random_uniform_like",
]  # fmt: skip
