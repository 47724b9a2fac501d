"""Run a stranger's program in a copy of this process that can take no more than it is given.

A model file is a program: it may never end, take all memory, or crash the interpreter (C++ that recurses has no limit
of depth). What it does to a forked copy is an answer here. The copy has everything that was imported, so it costs
milliseconds; it must compute with one thread, as the threads of the libraries are not copied. It ends itself: by the
kernel's limit of processor time, by an alarm where it only waits, and with this process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import re
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compress.core.errors import CompressError
from compress.support.plain_json import NotJson, parse_json

__all__ = ["Failure", "Limits", "tried"]

_OUT_OF_MEMORY = 71  # exit code of the copy
_PATIENCE = 10
"""Times the processor time after which a copy that waits is ended: on a busy machine one that works waits, too."""
_STACK_SHARE = 0.75
"""Of this process's stack: what fits there fits here, where a few more calls lie below it."""
_ENDS_LATE = frozenset({signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL})
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LACK = re.compile(r"can't allocate|bad_alloc|not enough memory|failed to allocate|unable to allocate", re.IGNORECASE)
"""How PyTorch, C++, ONNX Runtime and NumPy say that there is no memory, in errors of no class of its own."""


@dataclass(frozen=True)
class Limits:
    """Limits of what the copy may take.

    Attributes:
        seconds: of processor time.
        memory_bytes: besides what this process has; not limited where there is no `/proc` (macOS).
    """

    seconds: int
    memory_bytes: int


@dataclass(frozen=True)
class Failure:
    """Failure of the work, and its cause.

    Attributes:
        kind: an error that was raised, or what ended the copy.
        detail: text of the error, or the name of the signal.
        fix: of the error, where it had one.
        exit_code: of the error, where it is one of this package's.
    """

    kind: Literal["error", "time", "memory", "crash"]
    detail: str = ""
    fix: str | None = None
    exit_code: int = 2


def tried(work: Callable[[], object], limits: Limits) -> Failure | None:
    """Run `work` in a copy of this process, for its failure alone; None where it ends well.

    What it writes to the terminal is lost. Everything that it imports should be imported already.

    Raises:
        OSError: the system makes no copy.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, of which the copy uses none
        process = os.fork()
    if process == 0:
        _run_and_exit(work, limits, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as answers:
            answer = answers.read()
        status = os.waitpid(process, 0)[1]
    except BaseException:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise
    return _failure(os.waitstatus_to_exitcode(status), answer)


def _failure(code: int, answer: bytes) -> Failure | None:
    if code == _OUT_OF_MEMORY:
        return Failure("memory")
    if code < 0:
        number = signal.Signals(-code)
        return Failure("time") if number in _ENDS_LATE else Failure("crash", number.name)
    try:
        report = parse_json(answer)
    except NotJson:
        return Failure("crash", f"exit code {code}")
    if report is None:
        return None
    match report:
        case [str(problem), str() | None as fix, int(exit_code)]:
            return Failure("error", problem, fix, exit_code)
        case _:  # not what `_run_and_exit` writes: the graph got hold of the pipe
            return Failure("crash", "an answer of its own")


def _run_and_exit(work: Callable[[], object], limits: Limits, writing: int) -> None:
    """The copy's whole life."""
    code = 70
    try:
        _settle(limits, writing)
        report: tuple[str, str | None, int] | None = None
        try:
            work()
        except CompressError as error:
            code, report = _code_of(error), (error.problem, error.fix, error.exit_code)
        except Exception as error:
            code, report = _code_of(error), (f"{type(error).__name__}: {error}", None, 2)
        else:
            code = 0
        with os.fdopen(writing, "wb") as answers:
            answers.write(json.dumps(report).encode())
    except MemoryError:
        code = _OUT_OF_MEMORY
    finally:
        os._exit(code)


def _code_of(error: BaseException) -> int:
    lacks = any(isinstance(cause, MemoryError) or _LACK.search(str(cause)) for cause in _causes(error))
    return _OUT_OF_MEMORY if lacks else 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _settle(limits: Limits, writing: int) -> None:
    """Make this copy quiet but for its answer, mortal and limited."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us both; the other one ends us
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in {0, 1, 2} - {writing}:  # a terminal that was closed leaves its number to others
        os.dup2(nowhere, descriptor)
    sys.setrecursionlimit(int(sys.getrecursionlimit() * _STACK_SHARE))
    with suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    signal.alarm(limits.seconds * _PATIENCE)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, limits.seconds)
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    if stack != resource.RLIM_INFINITY:
        _lower(resource.RLIMIT_STACK, int(stack * _STACK_SHARE))
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory_bytes)


def _lower(limit: int, value: int) -> None:
    soft, hard = resource.getrlimit(limit)
    lowest = min([value, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY)])
    with suppress(ValueError, OSError):
        resource.setrlimit(limit, (lowest, hard))
