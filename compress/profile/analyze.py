"""Make a profile of times and limits: what every layer waits for, and what the model does."""

from __future__ import annotations

from compress.core.artifact import Precision
from compress.core.errors import ConfigError
from compress.core.target import Target
from compress.formats.registry import support_of
from compress.profile.bottleneck import Bottleneck, bound_ms, classify, classify_model, layer_advice, model_advice
from compress.profile.document import SCHEMA, LayerProfile, ModelProfile, Profile, RooflineProfile
from compress.profile.layer import LayerTime, Reader, Recording, Settings, Source
from compress.profile.machine import MachineLimits, measured_limits, published_limits
from compress.support.quiet import undisturbed

__all__ = ["analyze", "profile"]

_AGREES = 0.10
"""Layers that add up to within this share of the measured call explain it."""

_BUSY = 1.3
"""Median over quickest call: 1.02 to 1.15 on an idle machine, over 2 with three processes a core."""


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
    if support_of(source.format).on_accelerator and target is None:
        raise ConfigError(
            f"{source.title} runs on the GPU, whose limits are not measured here", fix="--target jetson_orin_nano"
        )
    with undisturbed():  # a bar that is drawn meanwhile would be charged to the layers
        recording = reader.record(source, settings)
        launch_us = reader.launch_us(settings.threads)
        limits = published_limits(target, launch_us) if target else measured_limits(settings.threads, launch_us)
    return analyze(recording, limits, source.title), recording


def analyze(recording: Recording, limits: MachineLimits, file: str) -> Profile:
    """Classify every layer and the whole of a recording."""
    kinds = [classify(layer, limits) for layer in recording.layers]
    total = sum(layer.median_ms for layer in recording.layers)
    overhead = recording.measured_ms - total
    kind, share = classify_model(zip(recording.layers, kinds, strict=True), overhead, limits.launch_us)
    precision = _main_precision(recording.layers)
    reached = sum(bound_ms(layer, limits) for layer in recording.layers) / total if total else 0.0
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
        roofline=RooflineProfile(limits.peak(precision), limits.bandwidth_gb_s, limits.source, limits.launch_us),
        layers=tuple(_layer(layer, kind, limits, total) for layer, kind in zip(recording.layers, kinds, strict=True)),
    )


def _layer(layer: LayerTime, kind: Bottleneck, limits: MachineLimits, total_ms: float) -> LayerProfile:
    return LayerProfile(
        name=layer.name,
        op=layer.op,
        median_ms=layer.median_ms,
        share=layer.median_ms / total_ms if total_ms else 0.0,
        operations=layer.operations,
        bytes=layer.bytes,
        intensity=layer.operations / layer.bytes if layer.bytes else None,
        bottleneck=kind,
        advice=layer_advice(layer, kind, limits),
    )


def _main_precision(layers: tuple[LayerTime, ...]) -> Precision:
    """The precision that most operations are done in."""
    done: dict[Precision, int] = {}
    for layer in layers:
        done[layer.precision] = done.get(layer.precision, 0) + layer.operations
    return max(done, key=done.__getitem__, default=Precision.FP32)


def _disagreement(recording: Recording, sum_ms: float) -> str | None:
    """Explanation where layers and call do not add up within 10 %; None where they do."""
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
