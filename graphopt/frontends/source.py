"""Where in the user's source something happened."""

from __future__ import annotations

import logging
import re
import traceback
from pathlib import Path

import torch

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent.parent)
_STANDARD = str(Path(logging.__file__).parent)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def user_line(stack_trace: str) -> str | None:
    """``file:line`` of the innermost frame of a printed stack trace that is the user's."""
    frames = [(file, line) for file, line in _FRAME.findall(stack_trace) if _is_users(file)]
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else None


def user_frame(error: BaseException) -> str | None:
    """``file:line`` of the innermost frame that is the user's in an exception's traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return None


def current_user_line() -> str | None:
    """``file:line`` of the innermost frame that is the user's among those that are running."""
    for frame in reversed(traceback.extract_stack()):
        if _is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return None


def _is_users(file: str) -> bool:
    return not file.startswith((_TORCH, _OURS, _STANDARD, "<"))
