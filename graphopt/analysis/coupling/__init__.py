"""Channel coupling: which slices of which tensors must be removed together."""

from graphopt.analysis.coupling.coupling import ChannelCoupling, Group

__all__ = ["ChannelCoupling", "Group"]
