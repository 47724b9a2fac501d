"""Keeping libraries' warnings and logs off the user's terminal while they run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["first_line", "quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Python warnings and all logging inside the block, and restore both after it.

    The exporters warn and log at length about their own workings; what goes wrong reaches us as an exception.
    Logging is switched off as a whole because torch gives its loggers levels and handlers of their own.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def first_line(error: BaseException, *, limit: int = 200) -> str:
    """The first line with content of an error's message, at most `limit` characters; its type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:limit]
