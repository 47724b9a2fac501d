"""Chrome trace of one call, for https://ui.perfetto.dev or chrome://tracing.

Trace Event Format (Google, docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): complete events
(`ph: X`, microseconds), metadata (`M`) for the names of process and threads, counters (`C`) for what the layers reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from compress.profile.document import LayerProfile, Profile
from compress.profile.layer import Span
from compress.support.files import write_json

__all__ = ["trace_events", "write_trace"]

Event = dict[str, object]

_PROCESS = 1
_CALL, _LAYERS = 1, 2


def write_trace(path: Path, profile: Profile, spans: Sequence[Span]) -> None:
    """Write the file atomically.

    Raises:
        StageError: it cannot be written.
    """
    write_json(path, {"traceEvents": trace_events(profile, spans), "displayTimeUnit": "ms"})


def trace_events(profile: Profile, spans: Sequence[Span]) -> list[Event]:
    """The call and its layers on two rows, with each layer's class, work and speed."""
    layers = {layer.name: layer for layer in profile.layers}
    return [*_names(profile), _call(profile, spans), *_layers(spans, layers), *_counters(spans, layers)]


def _names(profile: Profile) -> Iterator[Event]:
    title = f"{profile.file} in {profile.runtime}, batch {profile.batch}, {profile.threads} thread(s)"
    yield _metadata("process_name", 0, title)
    yield _metadata("thread_name", _CALL, "call")
    yield _metadata("thread_name", _LAYERS, "layers")


def _metadata(name: str, thread: int, value: str) -> Event:
    return {"name": name, "ph": "M", "ts": 0, "pid": _PROCESS, "tid": thread, "args": {"name": value}}


def _call(profile: Profile, spans: Sequence[Span]) -> Event:
    end = max((span.start_us + span.duration_us for span in spans), default=0.0)
    facts = {
        "measured_ms": profile.model.measured_ms,
        "bottleneck": str(profile.model.bottleneck),
        "advice": profile.model.advice,
    }
    return _complete(profile.file, "call", _CALL, 0.0, end, facts)


def _layers(spans: Sequence[Span], layers: Mapping[str, LayerProfile]) -> Iterator[Event]:
    for span in spans:
        facts: dict[str, object] = {"op": span.op}
        if span.name in layers:
            layer = layers[span.name]
            facts |= {
                "bottleneck": str(layer.bottleneck),
                "median_ms": layer.median_ms,
                "operations": layer.operations,
                "bytes": layer.bytes,
                "advice": layer.advice,
            }
        yield _complete(span.name, span.op, _LAYERS, span.start_us, span.duration_us, facts)


def _counters(spans: Sequence[Span], layers: Mapping[str, LayerProfile]) -> Iterator[Event]:
    for span in spans:
        work = layers.get(span.name)
        microseconds = max(span.duration_us, 1.0)  # ONNX Runtime cuts to whole ones
        for name, amount in (("GFLOP/s", work.operations if work else 0), ("GB/s", work.bytes if work else 0)):
            reached = round(amount / microseconds / 1e3, 3)
            yield {
                "name": name,
                "ph": "C",
                "ts": span.start_us,
                "pid": _PROCESS,
                "tid": _LAYERS,
                "args": {"value": reached},
            }


def _complete(
    name: str, category: str, thread: int, start_us: float, duration_us: float, facts: Mapping[str, object]
) -> Event:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": start_us,
        "dur": duration_us,
        "pid": _PROCESS,
        "tid": thread,
        "args": dict(facts),
    }
