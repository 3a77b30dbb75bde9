"""Targets: what a deployment backend wants of a quantized model, as data."""

from graphopt.targets.target import OperatorRule, Scheme, Target, available, load_target

__all__ = ["OperatorRule", "Scheme", "Target", "available", "load_target"]
