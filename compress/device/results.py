"""What a device found: the agent's `result.json`, read with types and without trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import JsonValue

from compress.device.manifest import Bundle
from compress.errors import DeviceError, StageError
from compress.serialize import from_json

__all__ = ["DeviceFacts", "DeviceLatency", "DeviceResult", "DeviceRow", "DeviceRun", "DeviceState", "GoldenCheck"]
__all__ += ["read_result"]

SCHEMA_VERSION = 1

T = TypeVar("T", bound=JsonValue)


@dataclass(frozen=True)
class DeviceFacts:
    """The device, as it describes itself; `emulated` names what imitates its CPU."""

    model: str
    architecture: str
    cores: int
    system: str
    python: str
    cpu_flags: tuple[str, ...] = ()
    emulated: str | None = None
    virtual_machine: bool = False
    memory_bytes: int | None = None
    power_mode: str | None = None


@dataclass(frozen=True)
class DeviceState:
    """Clocks, temperature, power and throttling at one moment; None where the device does not tell."""

    governor: str | None = None
    clocks_mhz: tuple[float | None, ...] = ()
    celsius: float | None = None
    throttled: tuple[str, ...] | None = None
    watts: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class DeviceLatency:
    """Milliseconds of one call; `low_ms` to `high_ms` is the 95 % interval of the median."""

    median_ms: float
    low_ms: float
    high_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    runs: int
    warmup: int
    settled: bool
    throughput_per_s: float


@dataclass(frozen=True)
class GoldenCheck:
    """The device's outputs against the host's for the same file."""

    passed: bool
    reason: str | None = None
    identical: bool = False
    max_abs_error: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class DeviceRow:
    """One model with one thread count and batch size; with a `problem` there is no number."""

    stage: str
    precision: str
    threads: int
    batch: int
    problem: str | None
    runtime: str | None = None
    load_ms: float | None = None
    golden: GoldenCheck | None = None
    latency: DeviceLatency | None = None
    peak_rss_bytes: int | None = None
    peak_celsius: float | None = None
    mean_watts: Mapping[str, float | None] | None = None
    before: DeviceState = field(default_factory=DeviceState)
    after: DeviceState = field(default_factory=DeviceState)


@dataclass(frozen=True)
class DeviceResult:
    """Everything the agent wrote."""

    schema_version: int
    manifest_sha256: str
    target: str
    started: str
    device: DeviceFacts
    results: tuple[DeviceRow, ...]
    finished: bool


@dataclass(frozen=True)
class DeviceRun:
    """A device by the name the user gave it, and what it found."""

    name: str
    result: DeviceResult

    @property
    def valid(self) -> bool:
        """Whether every model was measured."""
        return not any(row.problem for row in self.result.results)


def read_result(content: bytes, bundle: Bundle, device: str) -> DeviceResult:
    """Read a device's answer about `bundle`.

    Raises:
        DeviceError: it is not a result, it is about another bundle, or it breaks its own rules.
    """
    try:
        result = from_json(DeviceResult, json.dumps(_printable(json.loads(content))).encode())
    except (StageError, ValueError) as error:
        raise DeviceError(f"{device} sent something that is not a result: {error}") from error
    if result.schema_version != SCHEMA_VERSION:
        raise DeviceError(f"{device} sent schema {result.schema_version}, this program reads {SCHEMA_VERSION}")
    if result.manifest_sha256 != bundle.digest:
        raise DeviceError(
            f"{device} measured another bundle (manifest {result.manifest_sha256[:12]}, wanted {bundle.digest[:12]})",
            fix="run the benchmark again with this bundle",
        )
    for row in result.results:
        if (row.problem is None) != (row.latency is not None and row.golden is not None and row.golden.passed):
            raise DeviceError(f"{device} gave a number for {row.stage!r} without matching golden outputs")
    return result


def _printable(value: JsonValue) -> JsonValue:
    """Texts without control characters: they end up on a terminal."""
    if isinstance(value, str):
        return "".join(character for character in value if character.isprintable())
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    return value
