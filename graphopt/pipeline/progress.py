"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


class RichProgress:
    """Progress bars on standard error, one below the other, each gone when it is done.

    A terminal has room for one live display, so the loops inside a pass share that of the pipeline.
    """

    def __init__(self) -> None:
        self._display: Progress | None = None

    def __call__(self, items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        """The same items, shown as progress."""
        from rich.console import Console
        from rich.progress import Progress

        outermost = self._display is None
        display = self._display = self._display or Progress(console=Console(stderr=True), transient=True)
        if outermost:
            display.start()
        task = display.add_task(description, total=total)
        try:
            for item in items:
                yield item
                display.advance(task)
        finally:
            display.remove_task(task)
            if outermost:
                display.stop()
                self._display = None
