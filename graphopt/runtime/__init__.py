"""Execution: run a graph, compare two graphs, time a graph."""

from graphopt.runtime.executor import run, values_of

__all__ = ["run", "values_of"]
