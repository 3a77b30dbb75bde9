"""The command line."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs the command line and exits.

    What a user got wrong is one line on standard error and exit status 2; a foreign exception is a bug and keeps its
    traceback.
    """
    from typer import Abort

    from graphopt.cli.app import app
    from graphopt.errors import GraphoptError

    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # what torch and numpy warn their programmers of is no news for a user
        warnings.simplefilter("ignore")
    try:
        status = app(arguments, prog_name="graphopt", standalone_mode=False)
    except GraphoptError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output went away (`graphopt inspect m.onnx | head`)
        sys.stderr.close()
        sys.exit(1)
    except (Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:  # typer may bring its own copy of click's exceptions, so there is no class to name
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        _fail(_usage(message(), error))
    sys.exit(status if isinstance(status, int) else 0)


def _usage(message: str, error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "graphopt"
    if not message:  # no arguments at all: the help has been shown
        return ""
    message = message.replace("Value error, ", "").removesuffix(".")
    return f"{message}; see '{command} --help'"


def _fail(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    if message:
        line = Text.assemble(("error:", "red"), " ", " ".join(message.split()))
        Console(stderr=True, soft_wrap=True, highlight=False).print(line)
    sys.exit(2)
