"""Calling an emitted module with the flat inputs of its graph."""

from graphopt.runtime.calls import call_flat

__all__ = ["call_flat"]
