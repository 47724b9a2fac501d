"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
import termios
import threading
import time

import pytest
from rich.console import Console

from compress.report import progress as module
from compress.report.progress import RichProgress, Verbosity, details_to
from compress.support.quiet import undisturbed


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def make(monkeypatch, *, terminal, ci="", verbosity=Verbosity.NORMAL):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("TERM", "xterm")
    stream = Stream(terminal)
    console = Console(file=stream, width=100, force_terminal=terminal, color_system=None, highlight=False)
    return RichProgress(console, verbosity), stream


def test_a_pipe_gets_log_lines_only(monkeypatch):
    progress, stream = make(monkeypatch, terminal=False)
    assert list(progress.track(range(3), "work")) == [0, 1, 2]
    progress.log("[stage] done " + "x" * 120)
    assert stream.getvalue() == "[stage] done " + "x" * 120 + "\n"


def test_a_message_is_one_line_whatever_is_in_it(monkeypatch):
    """Names of layers and files and a board's words are in messages."""
    progress, stream = make(monkeypatch, terminal=False)
    progress.log("kept conv\nerror: forged\x1b[2J")
    assert stream.getvalue() == "kept conv\\nerror: forged\\x1b[2J\n"


def test_a_terminal_gets_a_bar_with_counts(monkeypatch):
    progress, stream = make(monkeypatch, terminal=True)
    assert list(progress.track(iter("ab"), "calibrate [x]", total=2)) == ["a", "b"]
    shown = stream.getvalue()
    assert "calibrate [x]" in shown
    assert "2/2" in shown or "1/2" in shown or "0/2" in shown


@pytest.mark.parametrize(("ci", "bar"), [("true", False), ("1", False), ("false", True), ("", True)])
def test_ci_gets_no_bar_even_on_a_terminal(monkeypatch, ci, bar):
    progress, stream = make(monkeypatch, terminal=True, ci=ci)
    assert list(progress.track(range(2), "work")) == [0, 1]
    assert bool(stream.getvalue()) == bar


def test_long_work_on_a_pipe_says_now_and_then_how_long_it_takes(monkeypatch):
    progress, stream = make(monkeypatch, terminal=False)
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    list(progress.track(range(8), "calibrating"))
    list(progress.track(iter(range(8)), "reading"))
    assert stream.getvalue().splitlines() == [
        "calibrating: 3 of 8, about 30 s left",
        "calibrating: 6 of 8, about 12 s left",
        "reading: 3 done in 18 s",
        "reading: 6 done in 36 s",
    ]


def drawing():
    """Whether rich's thread is there, given the moment that it takes to end."""
    deadline = time.monotonic() + 1
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() > 1


def test_bars_rest_while_something_is_timed(monkeypatch):
    progress, stream = make(monkeypatch, terminal=True)
    if drawing():
        pytest.skip("other threads run here")
    for _ in progress.track(range(1), "outer"):
        list(progress.track(range(2), "inner"))
        assert drawing()
        with undisturbed():
            assert not drawing()
            before = stream.getvalue()
            time.sleep(0.3)
            assert stream.getvalue() == before
        assert drawing()
    assert not drawing()
    with undisturbed():  # nothing to hold
        assert progress._bars is None


def test_quiet_says_nothing_and_verbose_says_how_long_it_took(monkeypatch):
    for terminal in (False, True):
        progress, stream = make(monkeypatch, terminal=terminal, verbosity=Verbosity.QUIET)
        assert list(progress.track(range(3), "work")) == [0, 1, 2]
        progress.log("never seen")
        assert stream.getvalue() == ""
    progress, stream = make(monkeypatch, terminal=False, verbosity=Verbosity.VERBOSE)
    assert list(progress.track(range(3), "work")) == [0, 1, 2]
    assert stream.getvalue() == "work: 0.0 s\n"


def test_details_are_lines_inside_the_block_only(monkeypatch):
    progress, stream = make(monkeypatch, terminal=False, verbosity=Verbosity.VERBOSE)
    details = logging.getLogger("compress.somewhere")
    with details_to(progress):
        details.debug("seen %d", 1)
    details.debug("not seen")
    assert stream.getvalue() == "seen 1\n"
    assert not logging.getLogger("compress").handlers


_SCRIPT = """
import time
from compress.report.progress import RichProgress
from compress.report.terminal import console
progress = RichProgress(console())
for number in progress.track(range(4), "work"):
    time.sleep(0.15)
progress.log("done")
console().print("[red]red")
"""


def plain(changes):
    """The environment without what decides about bars and colours, but for `changes`."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "FORCE_COLOR")}
    return {**kept, "TERM": "xterm-256color", **changes}


def in_pty(**environment):
    """What the script writes to a real terminal of 90 columns."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 90))
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT], stdout=follower, env=plain(environment))
    os.close(follower)
    written = b""
    try:
        while part := os.read(leader, 65536):
            written += part
    except OSError:  # Linux: EIO when the other end is closed
        pass
    finally:
        os.close(leader)
    assert process.wait() == 0
    return written.decode()


@pytest.mark.skipif(not hasattr(termios, "tcsetwinsize"), reason="setting the terminal's size needs Python 3.11")
@pytest.mark.parametrize(
    ("environment", "bar", "colour"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"CI": "true"}, False, True),
    ],
)
def test_in_a_real_terminal(environment, bar, colour):
    written = in_pty(**environment)
    assert ("0/4" in written) == ("s left" in written) == bar
    assert ("\033[31mred" in written) == colour
    assert "done" in written


@pytest.mark.parametrize(("environment", "colour"), [({}, False), ({"FORCE_COLOR": "1"}, True)])
def test_in_a_pipe_there_is_never_a_bar(environment, colour):
    command = [sys.executable, "-c", _SCRIPT]
    done = subprocess.run(command, env=plain(environment), capture_output=True, text=True, check=True)
    assert done.stdout == ("done\n\033[31mred\033[0m\n" if colour else "done\nred\n")


def test_bars_nest_and_end_when_the_work_stops_early(monkeypatch):
    progress, stream = make(monkeypatch, terminal=True)
    for outer in progress.track(range(2), "outer"):
        inner = progress.track(range(100), "inner")
        assert next(inner) == 0
        inner.close()
        assert outer in (0, 1)
    progress.log("after")
    assert progress._bars is None
    assert stream.getvalue().rstrip().endswith("after")
