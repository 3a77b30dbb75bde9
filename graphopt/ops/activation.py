"""Activation functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from graphopt.ops.broadcast import infer_broadcast, relate_broadcast
from graphopt.ops.infer import same_as
from graphopt.ops.record import Compute, Operator, register

# Attributes travel as float32: a constant is recognised when it is within one float32 rounding.
_CLOSE = 1e-6
_SELU_ALPHA, _SELU_GAMMA = 1.6732632423543772, 1.0507009873554805


def leaky_relu(x: torch.Tensor, *, alpha: float = 0.01) -> torch.Tensor:
    """ONNX LeakyRelu: x, or alpha * x where x < 0."""
    return F.leaky_relu(x, alpha)


def prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """ONNX PRelu: x, or slope * x where x < 0; `slope` broadcasts to x from the right."""
    return torch.where(x < 0, slope * x, x)


def elu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """ONNX Elu: x, or alpha * (exp(x) - 1) where x < 0."""
    return F.elu(x, alpha)


def selu(x: torch.Tensor, *, alpha: float = _SELU_ALPHA, gamma: float = _SELU_GAMMA) -> torch.Tensor:
    """ONNX Selu: gamma * x, or gamma * alpha * (exp(x) - 1) where x <= 0."""
    if abs(alpha - _SELU_ALPHA) < _CLOSE and abs(gamma - _SELU_GAMMA) < _CLOSE:
        return F.selu(x)
    return gamma * F.elu(x, alpha)


def celu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """ONNX Celu: max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return F.celu(x, alpha)


def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """ONNX Gelu, exact or with the "tanh" approximation."""
    return F.gelu(x, approximate=approximate)


def hard_sigmoid(x: torch.Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> torch.Tensor:
    """ONNX HardSigmoid: alpha * x + beta, limited to [0, 1]."""
    if abs(alpha - 1 / 6) < _CLOSE and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


def swish(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """ONNX Swish: x * sigmoid(alpha * x)."""
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


def swiglu(gate: torch.Tensor, x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """ONNX SwiGLU: Swish of the gate times x, which have the same shape."""
    return swish(gate, alpha=alpha) * x


def thresholded_relu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """ONNX ThresholdedRelu: x where x > alpha, else 0 (also for NaN)."""
    return torch.where(x > alpha, x, 0)


def shrink(x: torch.Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> torch.Tensor:
    """ONNX Shrink: x + bias where x < -lambd, x - bias where x > lambd, else 0; in the element type of x."""
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0)).type_as(x)


_FUNCTIONS: dict[str, Compute] = {
    "Celu": celu,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": F.hardswish,
    "LeakyRelu": leaky_relu,
    "Mish": F.mish,
    "Relu": torch.relu,
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Swish": swish,
    "Tanh": torch.tanh,
    "ThresholdedRelu": thresholded_relu,
}

register(
    *(
        Operator(
            name,
            same_as(0),
            function,
            relate_broadcast,
            inline=True,
            elementwise=True,
            homogeneous=name in ("Relu", "LeakyRelu"),
        )
        for name, function in _FUNCTIONS.items()
    ),
    Operator("SwiGLU", infer_broadcast(), swiglu, relate_broadcast, inline=True, elementwise=True),
    Operator("PRelu", infer_broadcast(), prelu, relate_broadcast, inline=True, elementwise=True, homogeneous=True),
)

__all__ = [
    "celu", "elu", "gelu", "hard_sigmoid", "leaky_relu", "prelu", "selu", "shrink", "swiglu", "swish",
    "thresholded_relu",
]  # fmt: skip
