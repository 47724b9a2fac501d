"""From times and limits to a profile: what every layer waits for, and what the model does. `profile.json` is this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compress.errors import ConfigError, StageError
from compress.profile.bottleneck import Bottleneck, bound_ms, classify, classify_model, layer_advice, model_advice
from compress.profile.layer import LayerTime, Reader, Recording, Settings, Source
from compress.profile.machine import Roofline, measured_roofline, published_roofline
from compress.serialize import from_json
from compress.target import Target
from compress.types import Format, Precision

__all__ = ["SCHEMA", "LayerProfile", "ModelProfile", "Profile", "RooflineProfile", "analyze", "profile", "read_profile"]

SCHEMA = 1

_AGREES = 0.10
"""Layers that add up to within this share of the measured call explain it."""

_BUSY = 1.3
"""Median over quickest call: 1.02 to 1.15 on an idle machine, over 2 with three processes a core."""


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
    median_ms: float
    share: float
    operations: int
    bytes: int
    intensity: float | None
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

    measured_ms: float
    sum_ms: float
    overhead_ms: float
    bottleneck: Bottleneck
    profiling_overhead: float
    advice: str


@dataclass(frozen=True)
class RooflineProfile:
    """Limits that the layers were held against; `peak_gflops` at the precision of most of the arithmetic."""

    peak_gflops: float
    bandwidth_gb_s: float
    source: Literal["measured", "published"]
    launch_us: float


@dataclass(frozen=True)
class Profile:
    """A profile as it is stored."""

    schema: int
    file: str
    runtime: str
    device: str
    threads: int
    batch: int
    model: ModelProfile
    roofline: RooflineProfile
    layers: tuple[LayerProfile, ...]


def profile(
    source: Source, reader: Reader, settings: Settings, target: Target | None = None
) -> tuple[Profile, Recording]:
    """Measure a model and the machine it runs on.

    Args:
        target: hold the layers against its published limits instead of this machine's.

    Raises:
        ConfigError: the settings do not fit the model, or the target states no peaks.
        StageError: the runtime refuses the model.
    """
    if source.format is Format.TENSORRT and target is None:
        raise ConfigError(
            f"{source.title} runs on the GPU, whose limits are not measured here", fix="--target jetson_orin_nano"
        )
    recording = reader.record(source, settings)
    launch_us = reader.launch_us(settings.threads)
    limits = published_roofline(target, launch_us) if target else measured_roofline(settings.threads, launch_us)
    return analyze(recording, limits, source.title), recording


def analyze(recording: Recording, roofline: Roofline, file: str) -> Profile:
    """Classify every layer and the whole of a recording."""
    kinds = [classify(layer, roofline) for layer in recording.layers]
    total = sum(layer.median_ms for layer in recording.layers)
    overhead = recording.measured_ms - total
    kind, share = classify_model(zip(recording.layers, kinds, strict=True), overhead, roofline.launch_us)
    precision = _main_precision(recording.layers)
    reached = sum(bound_ms(layer, roofline) for layer in recording.layers) / total if total else 0.0
    advice = model_advice(kind, share, reached, precision, recording.batch)
    warning = _disagreement(recording, total)
    return Profile(
        schema=SCHEMA,
        file=file,
        runtime=recording.runtime,
        device=recording.device,
        threads=recording.threads,
        batch=recording.batch,
        model=ModelProfile(
            measured_ms=recording.measured_ms,
            sum_ms=total,
            overhead_ms=overhead,
            bottleneck=kind,
            profiling_overhead=recording.profiling_overhead,
            advice=f"{advice}; {warning}" if warning else advice,
        ),
        roofline=RooflineProfile(
            roofline.peak(precision), roofline.bandwidth_gb_s, roofline.source, roofline.launch_us
        ),
        layers=tuple(_layer(layer, kind, roofline, total) for layer, kind in zip(recording.layers, kinds, strict=True)),
    )


def read_profile(path: Path) -> Profile:
    """A stored profile.

    Raises:
        ConfigError: missing, damaged, or of another version.
    """
    try:
        found = from_json(Profile, path.read_bytes())
    except (OSError, StageError) as error:
        raise ConfigError(f"{path} is not a profile: {error}", fix="profile the model again") from error
    if found.schema != SCHEMA:
        raise ConfigError(f"{path} has the schema {found.schema}, not {SCHEMA}", fix="profile the model again")
    return found


def _layer(layer: LayerTime, kind: Bottleneck, roofline: Roofline, total_ms: float) -> LayerProfile:
    return LayerProfile(
        name=layer.name,
        op=layer.op,
        median_ms=layer.median_ms,
        share=layer.median_ms / total_ms if total_ms else 0.0,
        operations=layer.operations,
        bytes=layer.bytes,
        intensity=layer.operations / layer.bytes if layer.bytes else None,
        bottleneck=kind,
        advice=layer_advice(layer, kind, roofline),
    )


def _main_precision(layers: tuple[LayerTime, ...]) -> Precision:
    """The precision that most operations are done in."""
    done: dict[Precision, int] = {}
    for layer in layers:
        done[layer.precision] = done.get(layer.precision, 0) + layer.operations
    return max(done, key=done.__getitem__, default=Precision.FP32)


def _disagreement(recording: Recording, sum_ms: float) -> str | None:
    """What to know where layers and call do not add up within 10 %; None where they do."""
    gap = sum_ms - recording.measured_ms
    if abs(gap) <= _AGREES * recording.measured_ms:
        return None
    if recording.disturbed > _BUSY:
        why = f"other programs disturbed it (the median call takes {recording.disturbed:.1f} times the quickest)"
    elif gap < 0:
        why = "the rest is the runtime's work between layers and in starting the call"
    else:
        why = "the profiler slows the layers down, so trust their proportions and not their sum"
    return f"the layers add up to {sum_ms / recording.measured_ms:.0%} of the measured call, not within 10 %: {why}"
