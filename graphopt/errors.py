"""The errors that graphopt raises: what went wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CaptureError",
    "DataError",
    "EquivalenceError",
    "GraphoptError",
    "LoadError",
    "OptionError",
    "PassError",
    "PipelineError",
    "SaveError",
    "ShapeError",
    "UnsupportedOperatorError",
    "VerifyError",
    "nearest",
]


class GraphoptError(Exception):
    """The base of every error that graphopt raises on purpose.

    Attributes:
        what: What went wrong.
        where: The node, file or option that it went wrong at, if one is known.
        hint: What the reader can do about it, if anything is known to help.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = _one_line(self.what)
        if self.where:
            text += f" (at {_one_line(self.where)})"
        if self.hint:
            text += f"; {_one_line(self.hint)}"
        return text


class LoadError(GraphoptError):
    """A model could not be read."""


class CaptureError(GraphoptError):
    """A torch module could not be turned into a graph."""


class VerifyError(GraphoptError):
    """A graph is not well-formed."""


class ShapeError(GraphoptError):
    """The types or shapes of an operator's inputs contradict each other or the operator."""


class UnsupportedOperatorError(GraphoptError):
    """An operator has no form in the place that it was asked for."""


class PipelineError(GraphoptError):
    """A pipeline's text is malformed, or names a pass or an option that does not exist."""


class DataError(GraphoptError):
    """Calibration or training data is missing, or does not fit the graph."""


class PassError(GraphoptError):
    """A pass failed while it ran."""


class SaveError(GraphoptError):
    """A model could not be written."""


class EquivalenceError(GraphoptError):
    """A pass changed what the graph computes by more than its contract allows."""


class OptionError(GraphoptError):
    """An option of a function or a command has a value that cannot be used."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Find what the writer of an unknown name most likely meant.

    Letter case is ignored.

    Args:
        name: The name as written.
        candidates: The names that exist.

    Returns:
        A hint such as ``did you mean 'fuse'?``, or None when no candidate comes close.

    Example:
        >>> nearest("fuze", ["fuse", "prune-channels"])
        "did you mean 'fuse'?"
    """
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f"did you mean {by_lower_case[close[0]]!r}?" if close else None


def _one_line(text: str) -> str:
    return " ".join(stripped for line in text.splitlines() if (stripped := line.strip()))
