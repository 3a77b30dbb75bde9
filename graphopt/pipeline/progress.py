"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def rich_progress(items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
    """The same items, with a progress bar on standard error that vanishes when they are done."""
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description, total=total, console=Console(stderr=True), transient=True)
