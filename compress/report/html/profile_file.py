"""`profile.json`, which the profile stage leaves in a run folder, read without trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compress.errors import ConfigError, StageError
from compress.serialize import from_json

__all__ = ["Profile", "ProfileLayer", "read_profile"]

PROFILE = "profile.json"
SCHEMA = 1


@dataclass(frozen=True)
class ProfileLayer:
    """One layer: its share of the time, what it computes and moves, what it waits for and what to do about it."""

    name: str
    op: str
    median_ms: float
    share: float
    operations: int
    bytes: int
    intensity: float | None
    bottleneck: str
    advice: str


@dataclass(frozen=True)
class ProfileModel:
    """The whole network: `overhead_ms` is what the layers do not account for."""

    measured_ms: float
    sum_ms: float
    overhead_ms: float
    bottleneck: str
    profiling_overhead: float
    advice: str


@dataclass(frozen=True)
class Roofline:
    """What the machine can do at most (Williams, Waterman, Patterson 2009)."""

    peak_gflops: float
    bandwidth_gb_s: float
    source: str
    launch_us: float | None = None


@dataclass(frozen=True)
class Profile:
    """A profile of one file in its runtime on one machine."""

    schema: int
    file: str
    runtime: str
    device: str
    threads: int
    batch: int
    model: ProfileModel
    roofline: Roofline
    layers: tuple[ProfileLayer, ...]


def read_profile(folder: Path) -> Profile | None:
    """The profile of a run folder; None if it has none.

    Raises:
        ConfigError: it is not one, or of another schema.
    """
    path = folder / PROFILE
    if not path.is_file():
        return None
    try:
        profile = from_json(Profile, path.read_bytes())
    except StageError as error:
        raise ConfigError(f"{path}: {error.problem}", fix="delete it or profile again") from error
    if profile.schema != SCHEMA:
        raise ConfigError(f"{path} has schema {profile.schema}, this program reads {SCHEMA}", fix="profile again")
    return profile
