"""Progress of long work: a live bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import closing, contextmanager
from enum import Enum
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from compress.core.errors import one_line
from compress.report.text import seconds_text
from compress.support.quiet import pausable
from compress.support.signals import require_uninterrupted

__all__ = ["RichProgress", "Verbosity", "details_to"]

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 15.0
"""Where there is no bar: long enough that a log stays readable, short enough that nobody thinks the work hangs."""


class Verbosity(Enum):
    """Amount of what is said while work goes on."""

    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


class RichProgress:
    """Implements `stage.Progress` on a console. Bars nest and disappear when they are done; log lines stay.

    On a pipe, a dumb terminal or a CI system (`CI` is set) there are no bars, but a line every quarter of a minute in
    work that takes longer. Quiet, there is nothing at all; verbose, every finished piece of work leaves a line.
    """

    def __init__(self, console: Console, verbosity: Verbosity = Verbosity.NORMAL) -> None:
        self._console = console
        self._verbosity = verbosity
        self._live = verbosity is not Verbosity.QUIET and _interactive(console)
        self._bars: Progress | None = None

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`, advancing a bar of `total` steps (their number, where it is known)."""
        steps = total if total is not None else len(items) if isinstance(items, Sized) else None
        started = time.monotonic()
        shown = self._drawn(items, description, steps) if self._live else self._told(items, description, steps)
        with closing(shown):
            for item in shown:
                require_uninterrupted()
                yield item
        if self._verbosity is Verbosity.VERBOSE:
            self.log(f"{description}: {seconds_text(time.monotonic() - started)}")

    def log(self, message: str) -> None:
        """Print one line, above the bar if there is one; never wrapped, so that logs can be searched."""
        if self._verbosity is not Verbosity.QUIET:
            self._console.print(Text(one_line(message)), soft_wrap=True)

    def _drawn(self, items: Iterable[T], description: str, steps: int | None) -> Generator[T, None, None]:
        if self._bars is not None:
            yield from self._advanced(self._bars, items, description, steps)
            return
        bars = self._bars = _bars(self._console)
        bars.start()
        try:
            with pausable(self._resting):
                yield from self._advanced(bars, items, description, steps)
        finally:
            bars.stop()
            self._bars = None

    def _advanced(self, bars: Progress, items: Iterable[T], description: str, steps: int | None) -> Iterator[T]:
        task = bars.add_task(description, total=steps if steps != 1 else None)  # one step has no share done: a pulse
        try:
            for item in items:
                yield item
                bars.advance(task)
        finally:
            bars.remove_task(task)

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """No bars and no thread that draws them: ten times a second it would be charged to what is timed."""
        bars = self._bars
        if bars is not None:
            bars.stop()
        try:
            yield
        finally:
            if bars is not None and bars is self._bars:
                bars.start()

    def _told(self, items: Iterable[T], description: str, steps: int | None) -> Generator[T, None, None]:
        """A line when the last one is old, each with what is done and how long the rest takes at that rate."""
        started = last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= _SECONDS_BETWEEN_LINES and done != steps:
                self.log(_line(description, done, steps, now - started))
                last = now


@contextmanager
def details_to(progress: RichProgress) -> Iterator[None]:
    """Show what this package logs (`logging.getLogger("compress")`) as lines of `progress`, inside the block."""
    logger = logging.getLogger("compress")
    handler = _ToProgress(progress)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _ToProgress(logging.Handler):
    def __init__(self, progress: RichProgress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.log(record.getMessage())


def _interactive(console: Console) -> bool:
    """Tell whether people look at a console that can redraw; `FORCE_COLOR` makes a pipe colourful, not interactive."""
    automatic = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return console.file.isatty() and not console.is_dumb_terminal and not automatic


def _line(description: str, done: int, steps: int | None, seconds: float) -> str:
    if steps is None:
        return f"{description}: {done} done in {seconds_text(seconds)}"
    left = seconds / done * (steps - done)
    return f"{description}: {done} of {steps}, about {seconds_text(left)} left"


class _Count(ProgressColumn):
    """`3/16`, or what is done where the total is unknown."""

    def render(self, task: Task) -> Text:
        done = f"{task.completed:.0f}" if task.completed else ""
        return Text(done if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


class _Left(ProgressColumn):
    """`12 s left`, once that is known."""

    max_refresh = 0.5  # seconds: faster, the figure flickers

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        if left is None or task.total is None:
            return Text()
        return Text(f"{left:.0f} s left" if left < 10 else f"{seconds_text(left)} left")


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        _Count(),
        TimeElapsedColumn(),
        _Left(),
        console=console,
        transient=True,
        expand=True,
    )
