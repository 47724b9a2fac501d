"""Several devices at the same time, each in a thread that mostly waits, and that nobody waits for after Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compress.core.errors import CompressError
from compress.device.transport import Transport
from compress.device.visit import BenchOptions, measure_on
from compress.results.bundle import Bundle
from compress.results.device import DeviceRun

__all__ = ["Fleet", "measure_all"]


@dataclass(frozen=True)
class Fleet:
    """Results of each device, and why the others have none, both in the order the devices were named."""

    runs: tuple[DeviceRun, ...]
    failures: Mapping[str, CompressError]


def measure_all(
    devices: Mapping[str, Transport], bundle: Bundle, options: BenchOptions, say: Callable[[str], None]
) -> Fleet:
    """Measure `bundle` on every device; one that fails does not stop the others."""
    lock = threading.Lock()

    answers: dict[str, DeviceRun | BaseException] = {}

    def measure(name: str, transport: Transport) -> None:
        def speak(text: str) -> None:
            with lock:
                say(f"{name}: {text}" if len(devices) > 1 else text)

        try:
            answers[name] = DeviceRun(name, measure_on(transport, bundle, options, speak))
        except BaseException as error:  # raised again where it is waited for
            answers[name] = error

    threads = [threading.Thread(target=measure, args=device, daemon=True) for device in devices.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failures: dict[str, CompressError] = {}
    for name, answer in ((name, answers[name]) for name in devices):
        if isinstance(answer, CompressError):
            failures[name] = answer
        elif isinstance(answer, BaseException):
            raise answer
    runs = (answers[name] for name in devices)
    return Fleet(tuple(run for run in runs if isinstance(run, DeviceRun)), failures)
