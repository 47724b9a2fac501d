"""Keeping libraries' warnings and logs off the user's terminal, and progress bars off the processor, for a while."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr

__all__ = ["first_line", "pausable", "quiet", "quiet_native", "undisturbed"]

Pause = Callable[[], AbstractContextManager[None]]

_pauses: list[Pause] = []


@contextmanager
def undisturbed() -> Iterator[None]:
    """Time something inside the block: what goes on beside the work, as drawing bars does, is held until its end."""
    with ExitStack() as held:
        for pause in tuple(_pauses):
            held.enter_context(pause())
        yield


@contextmanager
def pausable(pause: Pause) -> Iterator[None]:
    """Something goes on beside the work inside the block, and rests inside `pause()`."""
    _pauses.append(pause)
    try:
        yield
    finally:
        _pauses.remove(pause)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Python warnings, all logging and `sys.stderr` inside the block, and restore them after it.

    The exporters warn and log at length about their own workings, and print the graphs they give up on; what goes
    wrong reaches us as an exception. Logging is switched off as a whole because torch gives its loggers levels and
    handlers of their own. Standard output, where progress is shown, stays.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def first_line(error: BaseException, *, limit: int = 200) -> str:
    """The first line with content of an error's message, at most `limit` characters; its type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:limit]


@contextmanager
def quiet_native() -> Iterator[None]:
    """`quiet`, and what libraries in C++ write to the process's standard error; their exceptions still reach us."""
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        with quiet():
            yield
    finally:
        os.dup2(saved, 2)
        os.close(sink)
        os.close(saved)
