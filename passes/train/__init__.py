"""Training passes."""

from graphopt.passes.train.finetune import Finetune

__all__ = ["Finetune"]
