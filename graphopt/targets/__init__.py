"""Targets: what a deployment backend wants of a quantized model, as data."""

from graphopt.targets.rules import CostPair, Fixed, OperatorRule, Scheme, Target, constant_source
from graphopt.targets.target import available, load_target

__all__ = [
    "CostPair", "Fixed", "OperatorRule", "Scheme", "Target", "available", "constant_source", "load_target",
]  # fmt: skip
