"""Arithmetic of two or more inputs with numpy broadcasting."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch

from graphopt.errors import OptionError
from graphopt.ir import Dim, Node
from graphopt.ir import dims as D
from graphopt.ops import contents as C
from graphopt.ops.broadcast import infer_broadcast, relate_broadcast
from graphopt.ops.contents import pointwise, strict
from graphopt.ops.record import Evaluate, Operator, attribute, register


def div(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """ONNX Div: the quotient; of integers, rounded towards zero."""
    if x.is_floating_point() or x.is_complex():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def pow_(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """ONNX Pow: x to the power of y, in the element type of x."""
    return torch.pow(x, y).type_as(x)


def mod(x: torch.Tensor, y: torch.Tensor, *, fmod: int = 0) -> torch.Tensor:
    """ONNX Mod: the remainder with the sign of y, or with that of x for ``fmod=1``."""
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def bit_shift(x: torch.Tensor, y: torch.Tensor, *, direction: str) -> torch.Tensor:
    """ONNX BitShift of unsigned integers.

    Raises:
        OptionError: `direction` is neither LEFT nor RIGHT.
    """
    if direction not in ("LEFT", "RIGHT"):
        raise OptionError(f"BitShift has no direction '{direction}'", hint="use LEFT or RIGHT")
    # torch shifts no unsigned type wider than a byte; in int64 only the sign bit of uint64 needs care.
    wide, places = x.to(torch.int64), y.to(torch.int64)
    if direction == "LEFT":
        return (wide << places).to(x.dtype)
    if x.dtype is torch.uint64:
        kept = torch.where(places == 0, -1, (1 << (64 - places)) - 1)
        return ((wide >> places) & kept).to(x.dtype)
    return (wide >> places).to(x.dtype)


def maximum(*inputs: torch.Tensor) -> torch.Tensor:
    """ONNX Max: the elementwise maximum; NaN wherever an input is NaN."""
    return reduce(torch.maximum, inputs)


def minimum(*inputs: torch.Tensor) -> torch.Tensor:
    """ONNX Min: the elementwise minimum; NaN wherever an input is NaN."""
    return reduce(torch.minimum, inputs)


def sum_(*inputs: torch.Tensor) -> torch.Tensor:
    """ONNX Sum: the elementwise sum."""
    return reduce(operator.add, inputs)


def mean(*inputs: torch.Tensor) -> torch.Tensor:
    """ONNX Mean: the elementwise mean."""
    return reduce(operator.add, inputs) / len(inputs)


def clip(
    x: torch.Tensor, low: torch.Tensor | float | None = None, high: torch.Tensor | float | None = None
) -> torch.Tensor:
    """ONNX Clip: x limited to scalars `low` and `high`, either of which may be left out; `high` wins if they cross."""
    if low is None and high is None:
        return x
    # torch takes two tensors or two numbers, not one of each.
    if low is not None and high is not None and isinstance(low, (int, float)) != isinstance(high, (int, float)):
        return clip(clip(x, low), None, high)
    return torch.clamp(x, low, high)  # type: ignore[arg-type]  # no mixture is left, which its overloads cannot see


def evaluate_div(node: Node) -> Sequence[np.ndarray | None]:
    """Contents of a quotient: rounded towards zero for integers, exact or unknown for floats."""
    rule = C.divide_floats if node.operand(0).dtype.is_float else C.divide_integers
    return pointwise(strict(rule))(node)


def evaluate_mod(node: Node) -> Sequence[np.ndarray | None]:
    """Contents of a remainder."""
    return pointwise(strict(C.remainder if attribute(node, "fmod") else C.modulo))(node)


def evaluate_clip(node: Node) -> Sequence[np.ndarray | None]:
    """Contents of a clipped tensor, whichever bounds are there."""
    bounds = [rule for i, rule in ((1, C.maximum), (2, C.minimum)) if node.input(i) is not None]

    def clipped(x: Dim, *limits: Dim) -> Dim:
        for rule, limit in zip(bounds, limits, strict=True):
            x = rule(x, limit)
        return x

    return pointwise(strict(clipped))(node)


def _folding(rule: Callable[..., Dim]) -> Evaluate:
    return pointwise(strict(lambda *elements: reduce(rule, elements)))


def _subtract(a: Dim, b: Dim) -> Dim:
    return C.difference(a, b)


register(
    Operator("Add", infer_broadcast(), operator.add, relate_broadcast, evaluate=pointwise(D.add), inline=True,
             elementwise=True, commutative=True),
    Operator("Sub", infer_broadcast(), operator.sub, relate_broadcast, evaluate=pointwise(strict(_subtract)),
             inline=True, elementwise=True),
    Operator("Mul", infer_broadcast(), operator.mul, relate_broadcast, evaluate=pointwise(D.mul), inline=True,
             elementwise=True, commutative=True),
    Operator("Div", infer_broadcast(), div, relate_broadcast, evaluate=evaluate_div, elementwise=True),
    Operator("Pow", infer_broadcast(alike=(0,)), pow_, relate_broadcast, evaluate=pointwise(strict(C.power)),
             inline=True, elementwise=True),
    Operator("Mod", infer_broadcast(), mod, relate_broadcast, evaluate=evaluate_mod, inline=True, elementwise=True),
    Operator("BitShift", infer_broadcast(), bit_shift, relate_broadcast, elementwise=True),
    Operator("Max", infer_broadcast(), maximum, relate_broadcast, evaluate=_folding(C.maximum), inline=True,
             elementwise=True, commutative=True),
    Operator("Min", infer_broadcast(), minimum, relate_broadcast, evaluate=_folding(C.minimum), inline=True,
             elementwise=True, commutative=True),
    Operator("Sum", infer_broadcast(), sum_, relate_broadcast, evaluate=pointwise(D.add), inline=True,
             elementwise=True, commutative=True),
    Operator("Mean", infer_broadcast(), mean, relate_broadcast, inline=True, elementwise=True, commutative=True),
    Operator("Clip", infer_broadcast(), clip, relate_broadcast, evaluate=evaluate_clip, inline=True,
             elementwise=True),
)  # fmt: skip

__all__ = ["bit_shift", "clip", "div", "maximum", "mean", "minimum", "mod", "pow_", "sum_"]
