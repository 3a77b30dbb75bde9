"""Checks of options that the passes which recover accuracy have in common."""

from __future__ import annotations

from graphopt.errors import OptionError
from graphopt.pipeline import Pass


def check_options(owner: Pass, *checks: tuple[str, bool, str]) -> None:
    """Refuses the first option that is not good.

    Args:
        owner: the pass.
        checks: for each option its name, whether it is good, and what to give instead.

    Raises:
        OptionError: an option is not good.
    """
    for name, good, wanted in checks:
        if not good:
            where = f"{type(owner).name}{{{name}}}"
            raise OptionError(f"{name} is {getattr(owner, name)}", where=where, hint=f"give {wanted}")
