"""Losses for fine-tuning and distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from graphopt.errors import DataError

_LEFT_OUT = -100


def distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Soft-label loss: ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, averaged over the batch.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015. The factor T^2 keeps the gradient's size
    independent of the temperature.

    Args:
        student: logits [N, classes].
        teacher: logits [N, classes].
        temperature: T, above 0.
    """
    log_p = F.log_softmax(student / temperature, dim=-1)
    log_q = F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean") * temperature**2


def classification(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of logits [N, classes, ...] with integer labels [N, ...] or with class probabilities.

    Raises:
        DataError: a label is no class. One of -100 is left out, as torch does.
    """
    if not labels.is_floating_point() and labels.numel() and logits.dim() > 1:
        lowest, highest = labels[labels != _LEFT_OUT].aminmax() if (labels != _LEFT_OUT).any() else (0, 0)
        if lowest < 0 or highest >= logits.shape[1]:
            wrong = int(lowest if lowest < 0 else highest)
            raise DataError(
                f"label {wrong} is no class: the output has {logits.shape[1]}", where="labels",
                hint=f"give labels from 0 to {logits.shape[1] - 1}, or choose another output",
            )  # fmt: skip
    return F.cross_entropy(logits, labels if labels.is_floating_point() else labels.long())
