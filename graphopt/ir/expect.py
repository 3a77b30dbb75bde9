"""What functions of the public API say to those who give something else than they take."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from graphopt.errors import GraphoptError, OptionError
from graphopt.ir.graph import Graph


def expect_graph(given: object, where: str) -> None:
    """Raises OptionError when `given` is no graph, but a module or a file's name, say.

    Args:
        given: what was given for a graph.
        where: the function that it was given to.
    """
    if not isinstance(given, Graph):
        raise OptionError(
            f"{kind_of(given)} is no graph", where=where,
            hint="give what go.capture(module, args) or go.load(path) returns",
        )  # fmt: skip


def expect_module(given: object, where: str) -> None:
    """Raises OptionError when `given` is no torch module, but a state dict, say.

    Args:
        given: what was given for a module.
        where: the function that it was given to.
    """
    if not isinstance(given, nn.Module):
        raise OptionError(f"{kind_of(given)} is no torch module", where=where, hint="give a torch.nn.Module")


def expect_path(given: object, where: str, error: type[GraphoptError]) -> Path:
    """The path that `given` is.

    Args:
        given: what was given for the path of a file or folder.
        where: the function that it was given to.
        error: what is raised when it is no path, or one that no file can have.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise error(f"{kind_of(given)} is no path", where=where, hint="give a text or a pathlib.Path")
    try:
        raw = os.fsencode(given)
    except UnicodeEncodeError:
        raw = b"\0"
    if b"\0" in raw:
        raise error(f"no file can be called {os.fspath(given)!r}", where=where, hint="give the name of a file")
    return Path(os.fsdecode(raw))


def kind_of(given: object) -> str:
    """What somebody gave, in words: ``None``, ``the class Linear``, ``an int``."""
    if given is None:
        return "None"
    name = given.__name__ if isinstance(given, type) else type(given).__name__
    if isinstance(given, type):
        return f"the class {name}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


__all__ = ["expect_graph", "expect_module", "expect_path", "kind_of"]
