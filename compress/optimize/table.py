"""Table and sentence of before and after, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from compress.core.measurement import LatencyRatio
from compress.optimize.document import Attempt, Optimization
from compress.optimize.facts import GraphFacts

__all__ = ["attempt_line", "sentence", "table_lines"]

_MIB = 1 << 20
_KIB = 1 << 10
_DASH = "–"


def attempt_line(attempt: Attempt) -> str:
    """`saturation kept: 35 nodes fewer (0.99x the time, 0.98–1.01)`."""
    timed = f" ({_ratio(attempt.latency)})" if attempt.latency else ""
    return f"{attempt.name} {attempt.outcome}: {attempt.reason}{timed}"


def table_lines(found: Optimization) -> Iterator[str]:
    """The two graphs side by side, one line for each quantity."""
    rows = [("", "before", "after"), *_rows(found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, before, after in rows:
        yield f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}"


def sentence(found: Optimization) -> str:
    """The outcome on one line, for the report."""
    kept = [attempt.name for attempt in found.passes if attempt.outcome == "kept"]
    before, after = found.before, found.after
    if not kept:
        return f"no pass helps: the graph keeps its {before.nodes} nodes ({before.run_nodes} as ONNX Runtime runs it)"
    return (
        f"{', '.join(kept)}: {before.nodes} -> {after.nodes} nodes, as ONNX Runtime runs it {before.run_nodes} -> "
        f"{after.run_nodes}; {_ratio(found.latency)}; peak activations {_memory(before)} -> {_memory(after)}; "
        f"largest difference of any logit {found.max_abs_error:.2g} on {found.samples} images"
    )


def _rows(record: Optimization) -> Iterator[tuple[str, str, str]]:
    def row(name: str, cell: Callable[[GraphFacts], str]) -> tuple[str, str, str]:
        return name, cell(record.before), cell(record.after)

    yield row("nodes", lambda facts: str(facts.nodes))
    yield from _operators(record.before.operators, record.after.operators)
    yield row("nodes as ONNX Runtime runs it", lambda facts: str(facts.run_nodes))
    yield from _operators(record.before.run_operators, record.after.run_operators)
    yield row("file size", lambda facts: _bytes(facts.size_bytes))
    yield row("peak activation memory", _memory)
    if record.ort_bytes is not None:
        yield "file size in ORT format", _DASH, _bytes(record.ort_bytes)
    latency = record.latency
    yield "latency", "1", _DASH if latency is None else f"{latency.ratio:.3f} ({latency.low:.3f}–{latency.high:.3f})"


def _operators(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
    for kind in sorted({*before, *after}, key=lambda kind: (-before.get(kind, 0), kind)):
        yield f"  {kind}", str(before.get(kind, _DASH)), str(after.get(kind, _DASH))


def _ratio(latency: LatencyRatio | None) -> str:
    if latency is None:
        return "not timed"
    return f"{latency.ratio:.3f}x the time, {latency.low:.3f}–{latency.high:.3f}"


def _memory(facts: GraphFacts) -> str:
    return _DASH if facts.peak_activation_bytes is None else _bytes(facts.peak_activation_bytes)


def _bytes(count: int) -> str:
    return f"{count / _MIB:.2f} MiB" if count >= _MIB else f"{count / _KIB:.1f} KiB"
