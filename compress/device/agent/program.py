"""Common parts of the agent's programs: what they print, and how they end."""

import sys
from typing import IO, Callable

from .values import Problem

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run_program(work: Callable[[], int]) -> int:
    """Do the work; the exit code, after one line about whatever stopped it."""
    try:
        return work()
    except Problem as error:
        complain(str(error))
        return error.code
    except (OSError, IOError) as error:
        complain("%s: %s" % (error.filename, error.strerror) if error.filename else str(error))
        return 1
    except MemoryError:
        complain("this device has too little memory")
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED


def say(text: str) -> None:
    """A line on standard output, shown at once."""
    show(text, sys.stdout)


def complain(text: str) -> None:
    """An error on standard error."""
    show("error: " + text, sys.stderr)


def show(text: str, stream: IO[str]) -> None:
    """Print what may hold characters that the stream's encoding lacks: Python 3.6 has ASCII where the locale is C."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
