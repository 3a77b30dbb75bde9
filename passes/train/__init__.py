"""Training passes."""

from graphopt.passes.train.finetune import Finetune
from graphopt.passes.train.reestimate_bn import ReestimateBatchNorm

__all__ = ["Finetune", "ReestimateBatchNorm"]
