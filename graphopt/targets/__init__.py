"""Targets: what a deployment backend wants of a quantized model, as data."""

from graphopt.targets.rules import CostPair, OperatorRule, Scheme, Target
from graphopt.targets.target import available, load_target

__all__ = ["CostPair", "OperatorRule", "Scheme", "Target", "available", "load_target"]
