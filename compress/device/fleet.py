"""Several devices at the same time, each in a thread that mostly waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from compress.device.manifest import Bundle
from compress.device.results import DeviceRun
from compress.device.transport import Transport
from compress.device.visit import BenchOptions, measure_on
from compress.errors import CompressError

__all__ = ["Fleet", "measure_all"]


@dataclass(frozen=True)
class Fleet:
    """What each device found, and why the others found nothing, both in the order the devices were named."""

    runs: tuple[DeviceRun, ...]
    failures: Mapping[str, CompressError]


def measure_all(
    devices: Mapping[str, Transport], bundle: Bundle, options: BenchOptions, say: Callable[[str], None]
) -> Fleet:
    """Measure `bundle` on every device; one that fails does not stop the others."""
    lock = threading.Lock()

    def measure(name: str, transport: Transport) -> DeviceRun | CompressError:
        def speak(text: str) -> None:
            with lock:
                say(f"{name}: {text}" if len(devices) > 1 else text)

        try:
            return DeviceRun(name, measure_on(transport, bundle, options, speak))
        except CompressError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, len(devices))) as pool:
        found = dict(zip(devices, pool.map(measure, devices, devices.values()), strict=True))
    runs = tuple(answer for answer in found.values() if isinstance(answer, DeviceRun))
    return Fleet(runs, {name: answer for name, answer in found.items() if isinstance(answer, CompressError)})
