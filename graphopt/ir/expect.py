"""What functions that take a graph say to those who give something else."""

from __future__ import annotations

from graphopt.errors import OptionError
from graphopt.ir.graph import Graph


def expect_graph(given: object, where: str) -> None:
    """Raises OptionError when `given` is no graph, but a module or a file's name, say.

    Args:
        given: what was given for a graph.
        where: the function that it was given to.
    """
    if not isinstance(given, Graph):
        raise OptionError(
            f"a {type(given).__name__} is no graph", where=where,
            hint="give what go.capture(module, args) or go.load(path) returns",
        )  # fmt: skip


__all__ = ["expect_graph"]
