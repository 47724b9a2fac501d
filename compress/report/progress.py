"""Progress of long work: a live bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["RichProgress"]

T = TypeVar("T")


class RichProgress:
    """Implements `stage.Progress` on a console. Bars nest and disappear when they are done; log lines stay.

    On a pipe, a dumb terminal or a CI system (`CI` is set) there are no bars.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
        self._bars: Progress | None = None

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`, advancing a bar of `total` steps (their number, where it is known)."""
        if not self._live:
            yield from items
            return
        outermost = self._bars is None
        bars = self._bars = self._bars or _bars(self._console)
        if outermost:
            bars.start()
        steps = total if total is not None else len(items) if isinstance(items, Sized) else None
        task = bars.add_task(description, total=steps)
        try:
            for item in items:
                yield item
                bars.advance(task)
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                self._bars = None

    def log(self, message: str) -> None:
        """Print one line, above the bar if there is one; never wrapped, so that logs can be searched."""
        self._console.print(Text(message), soft_wrap=True)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
    )
