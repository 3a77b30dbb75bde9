"""Losses over class scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError
from graphopt.ir import Node, Shape, TensorType, ValueType
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register


def infer_loss(node: Node) -> Sequence[ValueType]:
    """Type rule of the losses: a scalar, or one loss for each target; log probabilities as the scores."""
    scores, target = input_type(node, 0), input_type(node, 1)
    shape: Shape | None = ()
    if attribute(node, "reduction") == "none":
        shape = target.shape
    if scores.shape is not None and target.shape is not None and len(scores.shape) != len(target.shape) + 1:
        raise ShapeError(
            f"scores have rank {len(scores.shape)}, targets {len(target.shape)}; one less is needed",
            where=node.describe(),
        )
    return [TensorType(scores.dtype, shape), scores][: max(len(node.outputs), 1)]


def nll_loss(
    log_prob: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """ONNX NegativeLogLikelihoodLoss: log_prob [N, C, ...], target [N, ...], weight [C]."""
    ignored = -100 if ignore_index is None else ignore_index
    return F.nll_loss(log_prob, target.long(), weight, ignore_index=ignored, reduction=reduction)


def softmax_cross_entropy(
    scores: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[torch.Tensor, torch.Tensor]:
    """ONNX SoftmaxCrossEntropyLoss: scores [N, C, ...], target [N, ...], weight [C]; gives log probabilities too."""
    log_prob = scores.log_softmax(1)
    return nll_loss(log_prob, target, weight, ignore_index=ignore_index, reduction=reduction), log_prob


register(
    Operator("NegativeLogLikelihoodLoss", infer_loss, nll_loss),
    Operator("SoftmaxCrossEntropyLoss", infer_loss, softmax_cross_entropy),
)

__all__ = ["nll_loss", "softmax_cross_entropy"]
