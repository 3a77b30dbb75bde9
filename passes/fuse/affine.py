"""Affine maps of channels: ``y = scale * x + shift`` with one pair of numbers for each channel, in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Var


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift``.

    Attributes:
        scale: [C], float64; ``None`` for 1.
        shift: [C], float64; ``None`` for 0.
    """

    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None


def batch_norm(op: Patterns, x: Pattern, scale: Var, bias: Var, mean: Var, var: Var, name: str = "bn") -> Pattern:
    """Pattern of a BatchNormalization at inference whose four vectors are constants."""
    vectors = [op.constant(each) for each in (scale, bias, mean, var)]
    return op.BatchNormalization(x, *vectors, training_mode=0).when(lambda n: len(n.outputs) == 1).named(name)


def of_batch_norm(node: Node) -> Affine:
    """The map that a BatchNormalization at inference applies to each channel."""
    gamma, beta, mean, var = (_double(node.operand(i)) for i in range(1, 5))
    scale = gamma / torch.sqrt(var + attribute(node, "epsilon"))
    return Affine(scale, beta - mean * scale)


def scaling(op: Patterns, x: Pattern, c: Var) -> Pattern:
    """Pattern of a multiplication or division by a constant."""
    return op.any(op.Mul(x, op.constant(c)).named("affine"), op.Div(x, op.constant(c)).named("affine"))


def shifting(op: Patterns, x: Pattern, c: Var) -> Pattern:
    """Pattern of a constant added to, subtracted from, or that something is subtracted from."""
    return op.any(
        op.Add(x, op.constant(c)).named("affine"),
        op.Sub(x, op.constant(c)).named("affine"),
        op.Sub(op.constant(c), x).named("affine"),
    )


def of_arithmetic(m: Match, c: Value, axis: int, channels: int) -> Affine | Failure:
    """The map that the node ``affine`` of a match, an Add, Sub, Mul or Div with the constant `c`, applies to channels.

    Args:
        m: the match.
        c: the constant operand.
        axis: dimension of the channels in the node's output, from the front.
        channels: their number.
    """
    node = m.node("affine")
    vector = channel_vector(c, node.output.rank, axis, channels)
    if vector is None:
        return m.fail("the constant is no number per channel")
    if node.op == "Mul":
        return Affine(scale=vector)
    if node.op == "Div":
        return m.fail("it divides by zero") if bool((vector == 0).any()) else Affine(scale=1 / vector)
    if node.op == "Add":
        return Affine(shift=vector)
    return Affine(shift=-vector) if node.input(1) is c else Affine(-torch.ones_like(vector), vector)


def channel_vector(constant: Value, rank: int | None, axis: int, channels: int) -> torch.Tensor | None:
    """The numbers that a constant gives each channel when it is broadcast to `rank` dimensions, as float64 [channels].

    ``None`` when it differs along another dimension than `axis`, or would stretch the other operand. A [C] constant
    stands for the last dimension, whatever C is.
    """
    data = constant.data
    if data is None or rank is None or data.dim() > rank or not constant.dtype.is_float:
        return None
    for position, extent in enumerate(data.shape, start=rank - data.dim()):
        if extent != 1 and (position != axis or extent != channels):
            return None
    return _double(constant).reshape(-1).expand(channels)


def _double(value: Value) -> torch.Tensor:
    data = value.data
    assert data is not None, "whoever asks has seen that it is a constant"
    return data.detach().to(torch.float64)
