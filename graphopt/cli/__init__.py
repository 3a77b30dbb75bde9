"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point: runs the command line; what a user got wrong is one line on standard error and exit status 2."""
    from rich.console import Console

    from graphopt.cli.app import app
    from graphopt.errors import GraphoptError

    try:
        app()
    except GraphoptError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/red] {_escape(str(error))}")
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output went away (`graphopt inspect m.onnx | head`)
        sys.exit(1)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
