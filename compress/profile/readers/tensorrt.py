"""TensorRT engines by TensorRT's own layer timing, with the copies to and from the GPU as layers of their own.

An engine does not say how much its layers compute. Its layers are named after the ONNX nodes that went into them
(`conv1 + relu1`), so the ONNX file that it was built from, lying beside it, says it for them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compress.core.artifact import Precision
from compress.core.errors import ConfigError
from compress.formats.onnx.layers import Layer, read_layers
from compress.formats.tensorrt.runtime import CallTimes, TensorRTRunner, interleaved, load_engine
from compress.measure.unmeasured import NotMeasured
from compress.profile.layer import LayerTime, Recording, Settings, Source, Span

__all__ = ["launch_us", "record"]

_LAUNCH_US = 3.8
"""A kernel in a stream of them, V100: Gray, Getting Started with CUDA Graphs, developer.nvidia.com/blog/cuda-graphs."""

_WIDTHS = {Precision.FP32: 4, Precision.FP16: 2, Precision.INT8: 1}


def record(source: Source, settings: Settings) -> Recording:
    """Time layers and copies by the GPU's clock.

    Raises:
        ConfigError: no ONNX file beside the engine names its layers, or TensorRT is not installed.
        StageError: no GPU answers, or the batch is outside the engine's profile.
    """
    runner = load_engine(source.path)
    batch = settings.batch or runner.smallest
    images = np.random.default_rng(0).standard_normal((batch, *runner.sample_shape), dtype=np.float32)
    call = interleaved([runner], images, runs=settings.runs)[0]
    times = runner.layer_times(images, runs=settings.runs)
    copies = _copies(call, runner, images)
    layers = (copies[0], *_layers(times, _graph(source.path, times), batch, source.precision), copies[1])
    compute_ms = statistics.median(call.compute_ms)
    return Recording(
        runtime=runner.name,
        device=runner.name.partition(" on ")[2],
        threads=settings.threads,
        batch=batch,
        measured_ms=compute_ms + sum(copy.median_ms for copy in copies),
        disturbed=compute_ms / min(call.compute_ms),
        profiling_overhead=sum(times.values()) / compute_ms - 1,
        runs=len(call.compute_ms),
        layers=layers,
        spans=_spans(layers),
    )


def launch_us(threads: int) -> float:
    """Published; TensorRT has no operator so small that it could be measured from outside."""
    return _LAUNCH_US


def _copies(call: CallTimes, runner: TensorRTRunner, images: np.ndarray) -> tuple[LayerTime, LayerTime]:
    sent, received = images.nbytes, runner(images).nbytes
    return (
        LayerTime("images to the GPU", "Memcpy", statistics.median(call.upload_ms), 0, sent, transfer=True),
        LayerTime("logits from the GPU", "Memcpy", statistics.median(call.download_ms), 0, received, transfer=True),
    )


def _layers(
    times: Mapping[str, float], graph: Mapping[str, Layer], batch: int, precision: Precision
) -> list[LayerTime]:
    found = []
    for name, ms in times.items():
        parts = [graph[part] for part in _parts(name) if part in graph]
        op = "+".join(part.operator for part in parts) or "Reformat"
        operations = batch * sum(part.operations for part in parts)
        weights = sum(part.weight_bytes for part in parts)
        moved = weights + batch * _WIDTHS[precision] * sum(part.elements for part in parts)
        found.append(LayerTime(name, op, ms, int(operations), int(moved), precision))
    return found


def _graph(engine: Path, times: Mapping[str, float]) -> dict[str, Layer]:
    """Layers of the ONNX file beside the engine whose names the engine's layers are made of."""
    import onnx

    found: dict[str, Layer] = {}
    most = 0
    parts = {part for name in times for part in _parts(name)}
    for path in sorted(engine.parent.glob("*.onnx")):
        named = {node.name for node in onnx.load(path, load_external_data=False).graph.node}
        if len(parts & named) > most:
            most, found = len(parts & named), _counted(path)
    if not most:
        raise ConfigError(
            f"{engine.name} does not say what its layers compute, and no ONNX file beside it names them",
            fix=f"copy the ONNX file that it was built from to {engine.parent}",
        )
    return found


def _counted(path: Path) -> dict[str, Layer]:
    """Layers that compute, by name; none where they cannot be counted."""
    try:
        return {layer.name: layer for layer in read_layers(path)}
    except NotMeasured:
        return {}


def _parts(name: str) -> list[str]:
    return [part.strip() for part in name.split(" + ")]


def _spans(layers: Sequence[LayerTime]) -> tuple[Span, ...]:
    """One after the other: TensorRT says how long a layer takes, not when it begins."""
    spans, start = [], 0.0
    for layer in layers:
        spans.append(Span(layer.name, layer.op, start, 1000 * layer.median_ms))
        start += 1000 * layer.median_ms
    return tuple(spans)
