"""Analyses: what can be known about a graph, computed on demand."""

from graphopt.analysis.shapes import bind, propagate, propagate_all

__all__ = ["bind", "propagate", "propagate_all"]
