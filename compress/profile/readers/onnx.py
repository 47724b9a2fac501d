"""ONNX files by ONNX Runtime's own profiler: one event a node and call, of the graph as it runs after fusion.

What the profiler itself does inside an event (`compress.profile.ort_cost`) is taken off.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.core.artifact import Precision
from compress.core.errors import StageError
from compress.measure.host import describe_host
from compress.measure.latency import PairedLatency, paired_latency
from compress.profile.layer import LayerTime, Recording, Settings, Source, Span, quickest
from compress.profile.onnx_feeds import make_feeds
from compress.profile.onnx_work import Traffic, Work, graph_work, named_model
from compress.profile.ort_cost import BoundSession, ProfilerCost, launch_us, profiler_cost
from compress.profile.ort_events import Call, median_us, read_calls
from compress.support.scratch import scratch_folder

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

__all__ = ["launch_us", "record"]

_WARM_UP = 5
_EVENTS = 40_000
"""Written and read back as JSON, about 1 KB each; ONNX Runtime itself stops at a million."""

_FEWEST_RUNS = 10


def record(source: Source, settings: Settings) -> Recording:
    """Time every node that ONNX Runtime runs.

    Raises:
        ConfigError: an input's shape is not fixed, or the batch does not fit.
        StageError: ONNX Runtime refuses the file.
    """
    import onnx
    import onnxruntime

    from compress.formats.onnx.runtime import open_session

    half = source.precision is Precision.FP16
    with scratch_folder() as folder:
        path, optimized = named_model(source.path, folder), folder / "optimized.onnx"
        plain = open_session(source.path, threads=settings.threads, half=half)
        feeds, batch = make_feeds(plain, settings.batch, source.path.name)
        profiled = open_session(
            path, threads=settings.threads, half=half, profile=folder / "events", optimized=optimized
        )
        graph = onnx.load(optimized)
        pair = _in_turn(profiled, plain, feeds, batch, len(graph.graph.node), settings)
        calls = read_calls(Path(profiled.end_profiling()))[pair.first.warmup :]
    if not calls or not calls[0].nodes:
        raise StageError(f"{source.path.name} runs no node: ONNX Runtime computed its outputs while loading it")
    shapes = {name: value.shape for name, value in feeds.items()}
    cost = profiler_cost(settings.threads)
    undisturbed = quickest(calls, lambda call: call.total_us)
    return Recording(
        runtime=f"onnxruntime {onnxruntime.__version__}",
        device=describe_host().label,
        threads=settings.threads,
        batch=batch,
        measured_ms=statistics.median(quickest([plain for _, plain in pair.times_ns], float)) / 1e6,
        disturbed=pair.second.median_ms / pair.second.min_ms,
        profiling_overhead=pair.ratio - 1,
        runs=pair.pairs,
        layers=_layers(undisturbed, graph_work(graph, shapes, _traffic(calls[0])), cost),
        spans=_spans(undisturbed[len(undisturbed) // 2], cost),
    )


def _in_turn(
    profiled: onnxruntime.InferenceSession,
    plain: onnxruntime.InferenceSession,
    feeds: Mapping[str, NDArray[np.generic]],
    batch: int,
    nodes: int,
    settings: Settings,
) -> PairedLatency:
    return paired_latency(
        BoundSession(profiled, feeds),
        BoundSession(plain, feeds),
        np.zeros((batch, 1), np.float32),
        runs=min(settings.runs, max(_FEWEST_RUNS, _EVENTS // max(nodes, 1))),
        warmup=_WARM_UP,
        seconds=settings.seconds,
        threads=settings.threads,
        device=describe_host().label,
    )


def _layers(calls: Sequence[Call], work: Mapping[str, Work], cost: ProfilerCost) -> tuple[LayerTime, ...]:
    times: dict[str, list[int]] = {}
    for call in calls:
        for node in call.nodes:
            times.setdefault(node.node, []).append(node.dur)
    layers = []
    for node in calls[0].nodes:
        own = work.get(node.node, Work())
        median_ms = cost.taken_off(median_us(times[node.node]), node.tensors) / 1000
        layers.append(LayerTime(node.node, node.args.op_name, median_ms, own.operations, own.bytes, own.precision))
    return tuple(layers)


def _traffic(call: Call) -> dict[str, Traffic]:
    return {
        node.node: Traffic(
            outputs=tuple(tuple(shape) for tensor in node.args.output_type_shape for shape in tensor.values()),
            bytes=node.args.activation_size + node.args.output_size,
        )
        for node in call.nodes
    }


def _spans(typical: Call, cost: ProfilerCost) -> tuple[Span, ...]:
    return tuple(
        Span(
            node.node,
            node.args.op_name,
            float(node.ts - typical.start_us),
            cost.taken_off(node.dur + 0.5, node.tensors),
        )
        for node in typical.nodes
    )
