"""Findings of a device: the agent's `result.json`, read with types and without trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from pydantic import JsonValue

from compress.core.errors import DeviceError, StageError, one_line
from compress.core.quantities import Amount, Count, Few, Finite, Milliseconds, Positive, Share
from compress.results.bundle import Bundle
from compress.support.serialize import from_json

__all__ = ["DeviceFacts", "DeviceLatency", "DeviceResult", "DeviceRow", "DeviceRun", "DeviceState", "GoldenCheck"]
__all__ += ["read_result"]

SCHEMA_VERSION = 1

_ROUNDING = 1e-9
_LONGEST_TEXT = 1000  # characters: a problem is a sentence, a name less


@dataclass(frozen=True)
class DeviceFacts:
    """The device, as it describes itself; `emulated` names what imitates its CPU."""

    model: str
    architecture: str
    cores: Positive
    system: str
    python: str
    cpu_flags: Few[str] = ()
    emulated: str | None = None
    virtual_machine: bool = False
    memory_bytes: Count | None = None
    power_mode: str | None = None


@dataclass(frozen=True)
class DeviceState:
    """Clocks, temperature, power and throttling at one moment; None where the device does not tell."""

    governor: str | None = None
    clocks_mhz: Few[Amount | None] = ()
    celsius: Finite | None = None
    throttled: tuple[str, ...] | None = None
    watts: Mapping[str, Finite | None] | None = None


@dataclass(frozen=True)
class DeviceLatency:
    """Milliseconds of one call; `low_ms` to `high_ms` is the 95 % interval of the median."""

    median_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    p90_ms: Milliseconds
    p99_ms: Milliseconds
    min_ms: Milliseconds
    runs: Positive
    warmup: Count
    settled: bool
    throughput_per_s: Amount

    @property
    def ordered(self) -> bool:
        """Tell whether the order statistics are in their order; interpolating between two may round by a last bit."""
        middle = (self.min_ms, self.low_ms, self.median_ms, self.high_ms)
        tail = (self.median_ms, self.p90_ms, self.p99_ms)
        return all(low <= high * (1 + _ROUNDING) for low, high in (*pairwise(middle), *pairwise(tail)))


@dataclass(frozen=True)
class GoldenCheck:
    """The device's outputs against the host's for the same file."""

    passed: bool
    reason: str | None = None
    identical: bool = False
    max_abs_error: Amount | None = None
    sqnr_db: Finite | None = None
    agreement: Share | None = None


@dataclass(frozen=True)
class DeviceRow:
    """One model with one thread count and batch size; with a `problem` there is no number.

    Attributes:
        mean_watts: by rail, over the readings while it was timed, at most one a second.
        watts_deviation: sample standard deviation of those readings, where there were two or more.
        watts_readings: their number.
    """

    stage: str
    precision: str
    threads: Count
    batch: Positive
    problem: str | None
    runtime: str | None = None
    load_ms: Amount | None = None
    golden: GoldenCheck | None = None
    latency: DeviceLatency | None = None
    peak_rss_bytes: Count | None = None
    peak_celsius: Finite | None = None
    mean_watts: Mapping[str, Finite | None] | None = None
    watts_deviation: Mapping[str, Amount] | None = None
    watts_readings: Mapping[str, Count] | None = None
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
    results: Few[DeviceRow]
    finished: bool


@dataclass(frozen=True)
class DeviceRun:
    """A device by the name the user gave it, and what it found."""

    name: str
    result: DeviceResult

    @property
    def valid(self) -> bool:
        """Tell whether every model was measured."""
        return not any(row.problem for row in self.result.results)


def read_result(content: bytes, bundle: Bundle, device: str) -> DeviceResult:
    """Read a device's answer about `bundle`.

    Raises:
        DeviceError: it is not a result, it is about another bundle, or it breaks its own rules.
    """
    try:
        result = from_json(DeviceResult, content, _shown)
    except StageError as error:
        raise DeviceError(f"{device} sent something that is not a result: {error}") from error
    if result.schema_version != SCHEMA_VERSION:
        raise DeviceError(f"{device} sent schema {result.schema_version}, this program reads {SCHEMA_VERSION}")
    if result.manifest_sha256 != bundle.digest:
        raise DeviceError(
            f"{device} measured another bundle (manifest {result.manifest_sha256[:12]}, wanted {bundle.digest[:12]})",
            fix="run the benchmark again with this bundle",
        )
    stages = {model.stage for model in bundle.manifest.models}
    for row in result.results:
        if row.stage not in stages:
            raise DeviceError(f"{device} measured {row.stage!r}, which is not in the bundle")
        if row.latency is not None and not row.latency.ordered:
            raise DeviceError(f"{device} gave percentiles of {row.stage!r} that are not in their order")
        if (row.problem is None) != (row.latency is not None and row.golden is not None and row.golden.passed):
            raise DeviceError(f"{device} gave a number for {row.stage!r} without matching golden outputs")
    return result


def _shown(value: JsonValue) -> JsonValue:
    """Return the value with every text and key as one line: they end up on terminals, in pages and in files."""
    if isinstance(value, str):
        return one_line(value, _LONGEST_TEXT)
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if isinstance(value, dict):
        return {one_line(key, _LONGEST_TEXT): _shown(item) for key, item in value.items()}
    return value
