"""Several devices at once: what goes wrong on one, and what an interruption waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from compress.core.errors import DeviceError
from compress.device import fleet

BUNDLE = OPTIONS = object()  # only handed on


def test_failures_of_devices_are_kept_and_ours_are_raised(monkeypatch):
    def measure_on(transport, bundle, options, say):
        say("measuring")
        if transport == "broken":
            raise DeviceError("no python3")
        if transport == "ours":
            raise ZeroDivisionError
        return ()

    said = []
    monkeypatch.setattr(fleet, "measure_on", measure_on)
    found = fleet.measure_all({"a": "good", "b": "broken"}, BUNDLE, OPTIONS, said.append)
    assert [run.name for run in found.runs] == ["a"]
    assert str(found.failures["b"]) == "no python3"
    assert sorted(said) == ["a: measuring", "b: measuring"]
    with pytest.raises(ZeroDivisionError):
        fleet.measure_all({"a": "good", "c": "ours"}, BUNDLE, OPTIONS, said.append)
    assert fleet.measure_all({}, BUNDLE, OPTIONS, said.append) == fleet.Fleet((), {})


def test_an_interruption_waits_for_no_device():
    script = textwrap.dedent(
        """
        import time
        from compress.device import fleet

        def measure_on(*_):
            print("begun", flush=True)
            time.sleep(60)

        fleet.measure_on = measure_on
        fleet.measure_all({"a": None}, None, None, print)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    time.sleep(0.2)  # the main thread goes on to wait
    started = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert b"KeyboardInterrupt" in errors
