"""Elementwise mathematics of one input, Identity and Dropout."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch

from graphopt.ir import Dim, DType, Node, TensorType, ValueType
from graphopt.ops import contents as C
from graphopt.ops.broadcast import relate_broadcast
from graphopt.ops.contents import pointwise, strict
from graphopt.ops.infer import input_type, same_as
from graphopt.ops.record import Compute, Operator, register


def identity(x: torch.Tensor) -> torch.Tensor:
    """ONNX Identity."""
    return x


def dropout(
    x: torch.Tensor,
    ratio: torch.Tensor | float | None = None,
    training_mode: torch.Tensor | bool | None = None,
    *,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """ONNX Dropout: x and a bool mask of what is kept; drops only when `training_mode` is true.

    Args:
        x: any shape.
        ratio: scalar, the probability of dropping an element; 0.5 by default.
        training_mode: scalar truth value; false by default.
        seed: seed of the random numbers; 0 draws from torch's default generator.
    """
    probability = 0.5 if ratio is None else float(ratio)
    if training_mode is None or not bool(training_mode) or probability == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    generator = torch.Generator(x.device).manual_seed(seed) if seed else None
    mask = torch.rand(x.shape, generator=generator, device=x.device) >= probability
    return torch.where(mask, x / (1 - probability), torch.zeros_like(x)), mask


def infer_dropout(node: Node) -> list[ValueType]:
    """Type rule of Dropout: x and its bool mask."""
    x = input_type(node, 0)
    return [x, TensorType(DType.BOOL, x.shape)]


def signum(x: torch.Tensor) -> torch.Tensor:
    """ONNX Sign: -1, 0 or 1; NaN stays NaN."""
    return torch.sign(x) if not x.is_floating_point() else torch.where(x.isnan(), x, torch.sign(x))


_FUNCTIONS: dict[str, Compute] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}

_WITH_CONTENTS: dict[str, tuple[Compute, Callable[..., Dim]]] = {
    "Abs": (torch.abs, C.absolute),
    "Ceil": (torch.ceil, C.ceiling),
    "Floor": (torch.floor, C.floor),
    "Neg": (operator.neg, lambda a: -a),
    "Sign": (signum, C.sign),
}

register(
    *(
        Operator(name, same_as(0), function, relate_broadcast, inline=True, elementwise=True)
        for name, function in _FUNCTIONS.items()
    ),
    *(
        Operator(
            name,
            same_as(0),
            function,
            relate_broadcast,
            evaluate=pointwise(strict(rule)),
            inline=name != "Sign",
            elementwise=True,
            homogeneous=name in ("Abs", "Neg"),
        )
        for name, (function, rule) in _WITH_CONTENTS.items()
    ),
    Operator(
        "Identity",
        same_as(0),
        identity,
        relate_broadcast,
        evaluate=pointwise(identity),
        inline=True,
        elementwise=True,
        homogeneous=True,
        moves=True,
    ),
    Operator("Dropout", infer_dropout, dropout, relate_broadcast, elementwise=True, random=True, homogeneous=True),
)

__all__ = ["dropout", "identity", "signum"]
