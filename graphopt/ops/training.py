"""Steps of optimizers, of ``ai.onnx.preview.training``: Adagrad, Adam and Momentum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from graphopt.errors import OptionError, ShapeError
from graphopt.ir import Node, ValueType
from graphopt.ops.record import Operator, register

DOMAIN = "ai.onnx.preview.training"


def _columns(tensors: tuple[torch.Tensor, ...], kinds: int) -> list[tuple[torch.Tensor, ...]]:
    """What belongs to each optimized tensor: the inputs list all tensors, then all gradients, and so on."""
    count = len(tensors) // kinds
    return [tuple(tensors[kind * count + i] for kind in range(kinds)) for i in range(count)]


def _flat(rows: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    return tuple(tensor for column in zip(*rows, strict=True) for tensor in column)


def adagrad(
    rate: torch.Tensor,
    step: torch.Tensor,
    *tensors: torch.Tensor,
    decay_factor: float = 0.0,
    epsilon: float = 0.0,
    norm_coefficient: float = 0.0,
) -> tuple[torch.Tensor, ...]:
    """ONNX Adagrad: tensors, gradients and squared sums to new tensors and squared sums."""
    adjusted = rate / (1 + step * decay_factor)
    rows = []
    for x, gradient, squares in _columns(tensors, 3):
        slope = norm_coefficient * x + gradient
        new = squares + slope * slope
        rows.append((x - adjusted * slope / (new.sqrt() + epsilon), new))
    return _flat(rows)


def adam(
    rate: torch.Tensor,
    step: torch.Tensor,
    *tensors: torch.Tensor,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 0.0,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[torch.Tensor, ...]:
    """ONNX Adam: tensors, gradients, first and second moments to new tensors and moments."""
    count = int(step)
    adjusted = rate * (1 - beta**count) ** 0.5 / (1 - alpha**count) if count > 0 else rate
    rows = []
    for x, gradient, first, second in _columns(tensors, 4):
        slope = norm_coefficient * x + gradient
        moment = alpha * first + (1 - alpha) * slope
        square = beta * second + (1 - beta) * slope * slope
        moved = x - adjusted * moment / (square.sqrt() + epsilon)
        rows.append(((1 - norm_coefficient_post) * moved, moment, square))
    return _flat(rows)


def momentum(
    rate: torch.Tensor,
    step: torch.Tensor,
    *tensors: torch.Tensor,
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
) -> tuple[torch.Tensor, ...]:
    """ONNX Momentum: tensors, gradients and velocities to new tensors and velocities.

    Raises:
        OptionError: `mode` is neither standard nor nesterov.
    """
    if mode not in ("standard", "nesterov"):
        raise OptionError(f"Momentum has no mode '{mode}'", hint="use standard or nesterov")
    weight = beta if int(step) > 0 else 1.0
    rows = []
    for x, gradient, velocity in _columns(tensors, 3):
        slope = norm_coefficient * x + gradient
        new = alpha * velocity + weight * slope
        rows.append((x - rate * (slope + alpha * new if mode == "nesterov" else new), new))
    return _flat(rows)


def _infer(kinds: int) -> Callable[[Node], list[ValueType]]:
    """Rule: what is optimized and its statistics keep their types; the gradients have no successor."""

    def infer(node: Node) -> list[ValueType]:
        given = [node.operand(i).type for i in range(2, len(node.inputs))]
        if len(given) % kinds:
            raise ShapeError(f"{len(given)} tensors are not {kinds} for each that is optimized", where=node.describe())
        count = len(given) // kinds
        return given[:count] + given[2 * count :]

    return infer


register(
    Operator("Adagrad", _infer(3), adagrad, domain=DOMAIN),
    Operator("Adam", _infer(4), adam, domain=DOMAIN),
    Operator("Momentum", _infer(3), momentum, domain=DOMAIN),
)

__all__ = ["adagrad", "adam", "momentum"]
