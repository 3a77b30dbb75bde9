"""Pruning passes."""

from graphopt.passes.prune.channels import PruneChannels
from graphopt.passes.prune.importance import criterion

__all__ = ["PruneChannels", "criterion"]
