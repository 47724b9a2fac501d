"""Measure a bundle on a device: copy, set up, run, fetch. A visit that breaks off is made again, for what is left."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from compress.core.errors import ConfigError, DeviceError, Unreachable, nearest, one_line
from compress.device.courier_link import CourierLink
from compress.device.transport import ConnectionLost, Transport
from compress.results.bundle import Bundle
from compress.results.device import DeviceResult, read_result
from compress.support.reading import open_regular

__all__ = ["BenchOptions", "check_device", "deploy", "measure_on"]

T = TypeVar("T")

_CHUNK_BYTES = 1 << 20
_POLL_SECONDS = 1.0
_SECONDS_BETWEEN_LINES = 15.0  # about a copy
_RETRY_SECONDS = 2.0
_MOST_DEATHS = 3
_MOST_VISITS = 1000  # a line that breaks every few seconds for an hour stays broken
_SILENT_SECONDS = 7200.0  # between two lines of a benchmark: an engine built on the smallest board takes under an hour
_MOST_CHARACTERS = 1 << 18  # shown of what a device prints: thousands of figures
_LONGEST_LINE = 1000  # characters: a figure's line has about 100

_MODULES = {
    "onnxruntime": ("numpy", "onnxruntime"),
    "litert": ("numpy", "ai_edge_litert.interpreter|tflite_runtime.interpreter|tensorflow.lite"),
    "edgetpu": ("numpy", "pycoral.utils.edgetpu|tflite_runtime.interpreter|ai_edge_litert.interpreter"),
    "tensorrt": ("numpy", "tensorrt"),
    "torchscript": ("numpy", "torch"),
}
"""What must be importable for a runtime; `a|b`: either."""


@dataclass(frozen=True)
class BenchOptions:
    """Options of the agent's benchmark; None and empty leave its own defaults.

    Attributes:
        seconds: longest time for one figure.
        patience_seconds: how long a device may stay away after it was reached once.
    """

    seconds: float = 30.0
    models: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    any_device: bool = False
    patience_seconds: float = 120.0

    def arguments(self) -> list[str]:
        """Arguments as `benchmark.py` takes them."""
        lists = (("--models", self.models), ("--threads", self.threads), ("--batch", self.batch))
        flags = [text for name, values in lists if values for text in (name, ",".join(map(str, values)))]
        return ["--seconds", str(self.seconds), *flags, *(["--any-device"] if self.any_device else [])]


@dataclass
class _Progress:
    """Progress of the visits to one device; survives a lost connection.

    Attributes:
        shown: characters of the device's output that were shown.
        heard: when the device last printed something that was shown, or a visit began to wait for that.
        told: seconds into the copy when its progress was last said.
        moved: when a visit last got something done (`time.monotonic`); None before the first.
    """

    tell: Callable[[str], None]
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    printed: int = 0
    deaths: int = 0
    last: str = ""
    shown: int = 0
    heard: float | None = None
    moved: float | None = None
    told: float = 0.0
    said: set[str] = field(default_factory=set)

    def say(self, text: str) -> None:
        """Tell the user something a device may have put words into."""
        self.tell(one_line(text, _LONGEST_LINE))

    def wait(self, device: str) -> None:
        """Sleep a moment; a device that has had nothing to show for too long is given up.

        Raises:
            DeviceError: it is.
        """
        self.heard = self.heard or time.monotonic()
        if time.monotonic() - self.heard > _SILENT_SECONDS:
            raise DeviceError(
                f"{device}: nothing happened for {_SILENT_SECONDS:g} s", fix="see what runs there, then start again"
            )
        time.sleep(_POLL_SECONDS)

    def move(self) -> None:
        self.moved = time.monotonic()

    def once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.say(text)

    def copying(self, sent: int, total: int, seconds: float) -> None:
        """Say how far a long copy is, now and then."""
        if sent < total and seconds - self.told >= _SECONDS_BETWEEN_LINES:
            self.told = seconds
            remaining = seconds / sent * (total - sent)
            self.say(f"copied {sent / 2**20:.1f} of {total / 2**20:.1f} MiB, about {remaining:.0f} s left")

    def lines(self, text: str) -> None:
        """Show what the device printed, up to a bound on all of it; its last error is kept whatever came before."""
        for line in text.splitlines():
            self.last = line if line.startswith("error:") else self.last
            if self.shown < _MOST_CHARACTERS:
                self.shown += len(line) + 1
                self.heard = time.monotonic()
                self.say("  " + line)
                if self.shown >= _MOST_CHARACTERS:
                    self.say("the device prints more than is shown here")


def check_device(transport: Transport) -> str:
    """Reach a device and say what it is, in one line.

    Raises:
        DeviceError: it cannot be reached or refuses us.
    """
    try:
        with CourierLink(transport) as link:
            facts = link.hello()
    except ConnectionLost as error:
        raise Unreachable(f"{transport.name}: the connection broke: {error}") from error
    free = facts.get("free_bytes")
    space = f", {free >> 20} MiB free" if isinstance(free, int) else ""
    text = f"{transport.name}: {facts.get('architecture')}, Python {facts.get('python')}{space}"
    return one_line(text, _LONGEST_LINE)


def deploy(transport: Transport, bundle: Bundle, say: Callable[[str], None], patience_seconds: float = 120.0) -> str:
    """Copy a bundle and prepare its runtimes; the interpreter on the device that can run it.

    Raises:
        DeviceError: the device cannot be reached, or lacks space, Python or the runtime.
    """
    progress = _Progress(say)
    return _persist(transport, progress, patience_seconds, lambda link: _prepare(link, bundle, progress))


def measure_on(transport: Transport, bundle: Bundle, options: BenchOptions, say: Callable[[str], None]) -> DeviceResult:
    """Benchmark a bundle on a device.

    Raises:
        DeviceError: the device cannot be reached, lacks something, or its answer cannot be used.
    """
    progress = _Progress(say)

    def visit(link: CourierLink) -> DeviceResult:
        python = _prepare(link, bundle, progress)
        _run(link, bundle, python, options, progress)
        result = read_result(link.fetch(progress.run), bundle, transport.name)
        link.forget(progress.run)
        return result

    return _persist(transport, progress, options.patience_seconds, visit)


def _persist(
    transport: Transport, progress: _Progress, patience_seconds: float, visit: Callable[[CourierLink], T]
) -> T:
    """Make visits until one goes through; a device that was reached once gets `patience_seconds` to come back."""
    for _ in range(_MOST_VISITS):
        try:
            with CourierLink(transport) as link:
                progress.moved = progress.moved or time.monotonic()
                return visit(link)
        except (ConnectionLost, Unreachable) as error:  # noqa: PERF203  that is what the loop is for
            if progress.moved is None:
                raise error if isinstance(error, Unreachable) else Unreachable(f"{transport.name}: {error}") from error
            if time.monotonic() - progress.moved > patience_seconds:
                reason = f"{transport.name} did not come back within {patience_seconds:g} s"
                raise Unreachable(reason, fix="run the same command again: what was copied stays there") from error
            progress.say(f"connection lost ({error}); trying again")
            time.sleep(_RETRY_SECONDS)
    raise Unreachable(f"{transport.name}: the connection broke {_MOST_VISITS} times", fix="mend the line to it")


def _prepare(link: CourierLink, bundle: Bundle, progress: _Progress) -> str:
    """Send the files the device lacks, and find or make an environment for them."""
    sent = _send(link, bundle, progress)
    if sent:
        progress.say(f"copied {sent / 2**20:.1f} MiB")
    modules = _needed(bundle)
    python, how = link.setup(bundle.digest, modules)
    progress.move()
    progress.once(f"runs with {python} ({how})")
    return python


def _needed(bundle: Bundle) -> list[str]:
    """Modules that must be importable for the runtimes of a bundle's models.

    Raises:
        ConfigError: a runtime is not known.
    """
    unknown = sorted({model.runtime for model in bundle.manifest.models} - _MODULES.keys())
    if unknown:
        raise ConfigError(f"the bundle wants the runtime {unknown[0]!r}: {nearest(unknown[0], _MODULES)}")
    return sorted({module for model in bundle.manifest.models for module in _MODULES[model.runtime]})


def _send(link: CourierLink, bundle: Bundle, progress: _Progress) -> int:
    """Send what is missing, each file from where an earlier visit stopped; the number of bytes sent."""
    there = link.have(bundle.digest, bundle.files)
    total = sum(file.size_bytes - there.get(file.path, 0) for file in bundle.files)
    sent, started = 0, time.monotonic()
    for file in bundle.files:
        offset = there.get(file.path, 0)
        with _opened(bundle.folder / file.path) as stream:
            stream.seek(offset)
            while offset < file.size_bytes:
                content = stream.read(_CHUNK_BYTES)
                if not content:
                    raise DeviceError(f"{file.path} became shorter while it was sent", fix="run the command again")
                link.put(bundle.digest, file, offset, content)
                progress.move()
                offset, sent = offset + len(content), sent + len(content)
                progress.copying(sent, total, time.monotonic() - started)
    return sent


def _opened(path: Path) -> BinaryIO:
    """A file that was verified; it may have changed since."""
    try:
        return open_regular(path)
    except OSError as error:
        raise DeviceError(f"{path} cannot be read any more: {error.strerror}", fix="run the command again") from error


def _run(link: CourierLink, bundle: Bundle, python: str, options: BenchOptions, progress: _Progress) -> None:
    """Start the benchmark unless it runs already, show what it prints, and wait for its end."""
    while True:
        state = link.start(bundle.digest, progress.run, python, options.arguments())
        if state == "busy":
            progress.once("another benchmark is running there; waiting for it, as two would disturb each other")
            progress.wait(link.device)
            continue
        if state == "started":
            progress.printed = 0
        if _watch(link, progress):
            return
        progress.deaths += 1
        if progress.last or progress.deaths >= _MOST_DEATHS:
            raise DeviceError(f"{link.device}: {progress.last.removeprefix('error: ') or 'the benchmark keeps dying'}")
        progress.say("the benchmark ended early; starting it again")


def _watch(link: CourierLink, progress: _Progress) -> bool:
    """Show the benchmark's output until it ends; whether it finished."""
    while True:
        state, text, progress.printed = link.poll(progress.run, progress.printed)
        progress.move()
        progress.lines(text)
        if state != "running":
            return state == "done"
        progress.wait(link.device)
