"""`profile.json`: a profile as it is stored, and reading it without trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compress.core.errors import ConfigError, StageError
from compress.core.quantities import Above, Amount, Count, Finite, Many, Share
from compress.profile.bottleneck import Bottleneck
from compress.support.reading import is_file, read_bytes
from compress.support.serialize import from_json

__all__ = ["SCHEMA", "LayerProfile", "ModelProfile", "Profile", "RooflineProfile", "find_profile", "read_profile"]

PROFILE = "profile.json"
"""Name of the file in a run folder."""

SCHEMA = 1


@dataclass(frozen=True)
class LayerProfile:
    """One layer, in the order of running.

    Attributes:
        share: of the sum of all layers.
        operations: two for a MAC.
        intensity: operations per byte; None where no bytes move.
    """

    name: str
    op: str
    median_ms: Amount
    share: Share
    operations: Count
    bytes: Count
    intensity: Amount | None
    bottleneck: Bottleneck
    advice: str


@dataclass(frozen=True)
class ModelProfile:
    """The whole call.

    Attributes:
        measured_ms: median of the quickest quarter of the calls without the profiler.
        sum_ms: of the layers' medians.
        overhead_ms: the difference, what the runtime does between layers; negative where the profiler slows layers.
        profiling_overhead: how much longer a call takes under the profiler: 0.05 is 5 %.
    """

    measured_ms: Above
    sum_ms: Amount
    overhead_ms: Finite
    bottleneck: Bottleneck
    profiling_overhead: Finite
    advice: str


@dataclass(frozen=True)
class RooflineProfile:
    """Limits that the layers were held against; `peak_gflops` at the precision of most of the arithmetic."""

    peak_gflops: Above
    bandwidth_gb_s: Above
    source: Literal["measured", "published"]
    launch_us: Amount


@dataclass(frozen=True)
class Profile:
    """A profile as it is stored."""

    schema: int
    file: str
    runtime: str
    device: str
    threads: Count
    batch: Count
    model: ModelProfile
    roofline: RooflineProfile
    layers: Many[LayerProfile]


def read_profile(path: Path) -> Profile:
    """A stored profile.

    Raises:
        ConfigError: missing, damaged, or of another version.
    """
    fix = "profile the model again, or delete it"
    try:
        found = from_json(Profile, read_bytes(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", fix=fix) from error
    except StageError as error:
        raise ConfigError(f"{path} is not a profile: {error.problem}", fix=fix) from error
    if found.schema != SCHEMA:
        raise ConfigError(f"{path} has schema {found.schema}, this program reads {SCHEMA}", fix=fix)
    return found


def find_profile(folder: Path) -> Profile | None:
    """The profile of a run folder; None if it has none.

    Raises:
        ConfigError: it is damaged, or of another version.
    """
    path = folder / PROFILE
    return read_profile(path) if is_file(path) else None
