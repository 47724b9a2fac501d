"""Work in a copy of this process: its errors, and what ends it."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import numpy as np
import pytest

from compress.core.errors import ModelError
from compress.support.forked import Failure, Limits, tried

LIMITS = Limits(seconds=1, memory_bytes=256 << 20)


def raises(error):
    raise error


def endless():
    while True:
        pass


def hidden():
    try:
        bytearray(1 << 30)
    except MemoryError as error:
        raise ModelError("it cannot be read") from error


def test_what_ends_well_is_no_failure_and_changes_nothing_here():
    values = []
    assert tried(lambda: values.append(1), LIMITS) is None
    assert values == []


@pytest.mark.parametrize(
    ("work", "failure"),
    [
        (lambda: raises(ModelError("a", fix="b")), Failure("error", "a", "b")),
        (lambda: raises(KeyError("a")), Failure("error", "KeyError: 'a'")),
        (endless, Failure("time")),
        (lambda: bytearray(1 << 30), Failure("memory")),
        (lambda: np.ones(1 << 27), Failure("memory")),
        (hidden, Failure("memory")),
        (lambda: raises(RuntimeError("DefaultCPUAllocator: can't allocate memory")), Failure("memory")),
        (lambda: ctypes.string_at(0), Failure("crash", "SIGSEGV")),
        (os.abort, Failure("crash", "SIGABRT")),
        (lambda: os._exit(3), Failure("crash", "exit code 3")),
        (lambda: sys.exit(0), Failure("crash", "exit code 70")),
    ],
)
def test_failures_are_told(work, failure):
    assert tried(work, LIMITS) == failure


def test_one_that_only_waits_is_ended(monkeypatch):
    monkeypatch.setattr("compress.support.forked._PATIENCE", 1)
    started = time.monotonic()
    assert tried(lambda: time.sleep(60), LIMITS) == Failure("time")
    assert time.monotonic() - started < 30


def test_nothing_is_written_to_the_terminal(capfd):
    assert tried(lambda: os.write(2, b"noise") + os.write(1, b"noise"), LIMITS) is None
    assert capfd.readouterr() == ("", "")


def test_an_interruption_here_ends_the_copy(monkeypatch):
    children = []
    wait = os.waitpid

    def interrupted(process, options):
        children.append(process)
        if len(children) == 1:
            raise KeyboardInterrupt
        return wait(process, options)

    monkeypatch.setattr("compress.support.forked.os.waitpid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tried(lambda: None, LIMITS)
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)
