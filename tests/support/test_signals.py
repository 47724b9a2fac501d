"""SIGTERM and SIGHUP end a program in order, and soon."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading

import pytest
from doubles import ROOT
from rich.console import Console

from compress.report.progress import RichProgress
from compress.support import signals
from compress.support.signals import Terminated, orderly_exit, require_uninterrupted

HEAD = (
    "import signal, sys, time; from compress.support import signals\n"
    "from compress.support.signals import orderly_exit\n"
)
CLOSES = (
    "with orderly_exit():\n  try: print('go', flush=True); time.sleep(60)\n  finally: print('closed', flush=True)\n"
)
WAITS = (
    "from concurrent.futures import ThreadPoolExecutor\nsignals._PATIENCE_SECONDS = 0.3\n"
    "with ThreadPoolExecutor() as pool, orderly_exit():\n"
    "  pool.submit(time.sleep, 60); print('go', flush=True); time.sleep(60)\n"
)
IGNORES = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + CLOSES.replace("60", "0.5")


@pytest.mark.parametrize(
    ("script", "number", "code", "out"),
    [
        (CLOSES, signal.SIGTERM, 143, "closed\n"),
        (CLOSES, signal.SIGHUP, 129, "closed\n"),
        (WAITS, signal.SIGTERM, -15, ""),
        (IGNORES, signal.SIGHUP, 0, "closed\n"),
    ],
    ids=["term", "hangup", "a thread that goes on", "nohup"],
)
def test_signals_end_in_order_and_soon(script, number, code, out):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HEAD + script]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == out
    assert process.returncode == code


def test_what_was_set_before_is_set_again(monkeypatch):
    monkeypatch.setattr(signals, "_PATIENCE_SECONDS", 1e6)  # this process goes on
    with pytest.raises(Terminated) as end, orderly_exit():
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_other_threads_have_no_signals():
    ended = []

    def work():
        with orderly_exit():
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]


def _swallow() -> None:
    """As an extension module does that is interrupted while it is imported: an answer comes out of it."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return


def test_ctrl_c_that_a_library_swallowed_ends_the_work_all_the_same():
    done = []

    def work() -> None:
        with orderly_exit():
            for item in RichProgress(Console(file=io.StringIO())).track(range(3), "work"):
                done.append(item)
                _swallow()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [0]
    require_uninterrupted()  # what comes later is other work
    with orderly_exit():
        require_uninterrupted()
