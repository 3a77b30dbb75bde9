"""Patterns of parameter names, as options write them."""

from __future__ import annotations

import fnmatch

from graphopt.errors import OptionError
from graphopt.ir import Graph


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern fits a parameter's name or the path of the module that it belongs to."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition(".")[0], pattern)


def check_pattern(graph: Graph, pattern: str, option: str) -> None:
    """Raises OptionError when `pattern` matches no constant of `graph`."""
    if not any(matches(value.name, pattern) for value in graph.constants):
        raise OptionError(
            f"{option} pattern '{pattern}' matches no parameter", where=option,
            hint="'graphopt inspect MODEL' lists the names",
        )  # fmt: skip
