"""Optimization of an ONNX artifact into a smaller one that is proven equal, with the record of how it came about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from compress.core.errors import ParityError
from compress.formats.onnx.metadata import metadata
from compress.formats.onnx.ort_graph import write_optimized
from compress.formats.onnx.write import write_checked
from compress.formats.parity import first_images
from compress.measure.host import describe_host
from compress.optimize.choose import THREADS, Bench, Chosen, choose, clearly_slower
from compress.optimize.document import Attempt, Optimization
from compress.optimize.equivalence import Equivalence, Proof
from compress.optimize.facts import graph_facts
from compress.optimize.passes import passes
from compress.optimize.source import read_source
from compress.optimize.table import attempt_line, sentence, table_lines
from compress.support.files import atomic_path, write_bytes
from compress.support.scratch import scratch_folder
from compress.support.serialize import to_json

if TYPE_CHECKING:
    from compress.core.artifact import Artifact
    from compress.core.measurement import LatencyRatio
    from compress.core.stage import Context

__all__ = ["Wanted", "measured_on", "optimize"]

_FINAL = 2
"""The comparison of the result with the source gets this many times the time of a pass: it is what is reported."""


@dataclass(frozen=True)
class Wanted:
    """Passes to try, and how thoroughly.

    Attributes:
        passes: names, in order.
        samples: calibration images on which every result must equal the source's.
        seconds: for one comparison of latency.
    """

    passes: Sequence[str]
    ort_format: bool
    samples: int
    seconds: float


@dataclass(frozen=True)
class _Found:
    """The graph to hand over, against the source."""

    chosen: Chosen
    attempts: tuple[Attempt, ...]
    latency: LatencyRatio | None


def measured_on() -> str:
    """The machine whose timings decide: on another, other passes may help."""
    return describe_host().label


def optimize(artifact: Artifact, context: Context, wanted: Wanted) -> Artifact:
    """Write the optimized file, its record and, if wanted, its ORT-format twin into `context.folder`.

    Raises:
        StageError: see `read_source`, or ONNX Runtime refuses the file.
        ParityError: a file as written does not compute what the source does.
    """
    result = artifact.after(context.name, context.folder / f"{context.name}.onnx")
    model = read_source(artifact.path, context.target, context.name)
    text = {entry.key: entry.value for entry in model.metadata_props}
    text.update(metadata(result.input, result.precision, result.history))
    images = list(first_images(context.splits.calibration, wanted.samples))
    bench = Bench(artifact, Equivalence(artifact, images, threads=os.cpu_count() or 1), wanted.seconds, text)
    source = Chosen(model, artifact.path, graph_facts(artifact.path))
    outcome = _search(source, bench, context, wanted)
    proof = _write(outcome.chosen, result.path, bench)
    ort = _write_ort(result.path, context, bench) if wanted.ort_format else None
    record = Optimization(
        device=measured_on(),
        threads=THREADS,
        samples=proof.samples,
        before=source.facts,
        after=graph_facts(result.path, outcome.chosen.model.graph.value_info),
        latency=outcome.latency,
        max_abs_error=proof.max_abs_error or 0.0,
        passes=outcome.attempts,
        ort_file=None if ort is None else ort.name,
        ort_bytes=None if ort is None else ort.stat().st_size,
    )
    return _handed_over(result, record, context)


def _search(source: Chosen, bench: Bench, context: Context, wanted: Wanted) -> _Found:
    """The passes that help; none of them if together they are slower than the source."""

    def tell(attempt: Attempt) -> None:
        context.progress.log(f"{context.name}: {attempt_line(attempt)}")

    tried = context.progress.track(
        passes(wanted.passes, context.target.architecture), f"optimize {context.name}", len(wanted.passes)
    )
    with scratch_folder(context.folder) as scratch:
        chosen, attempts = choose(source, tried, bench, scratch, tell)
        if chosen is source:
            return _Found(source, attempts, None)
        latency = replace(bench, seconds=_FINAL * bench.seconds).race(chosen.path, source.path)
    if clearly_slower(latency):
        context.progress.log(f"{context.name}: together they take {latency.ratio:.3f}x the time; the source is kept")
        reverted = tuple(_reverted(attempt, latency) for attempt in attempts)
        return _Found(source, reverted, None)
    return _Found(chosen, attempts, latency)


def _reverted(attempt: Attempt, latency: LatencyRatio) -> Attempt:
    if attempt.outcome != "kept":
        return attempt
    return replace(attempt, outcome="not kept", reason=f"together the passes take {latency.ratio:.3f}x the time")


def _write(chosen: Chosen, path: Path, bench: Bench) -> Proof:
    """Write the graph and prove the very file that is handed over."""
    with atomic_path(path) as temporary:
        write_checked(ir.serde.deserialize_model(chosen.model), temporary, bench.metadata)
        return _proven(temporary, bench, onnxruntime_only=chosen.onnxruntime_only)


def _write_ort(source: Path, context: Context, bench: Bench) -> Path:
    path = context.folder / f"{context.name}.ort"
    architecture = context.target.architecture
    with atomic_path(path) as temporary:
        write_optimized(source, temporary, level="extended", architecture=architecture, ort_format=True)
        _proven(temporary, bench, onnxruntime_only=True)
    return path


def _proven(path: Path, bench: Bench, *, onnxruntime_only: bool) -> Proof:
    proof = bench.equivalence.prove(path, onnxruntime_only=onnxruntime_only)
    if proof.problem is not None:
        raise ParityError(
            f"the optimized {path.suffix[1:]} file does not compute what its source does: {proof.problem}; "
            "it was not kept"
        )
    return proof


def _handed_over(result: Artifact, record: Optimization, context: Context) -> Artifact:
    for line in table_lines(record):
        context.progress.log(f"{context.name}: {line}")
    path = context.folder / f"{context.name}.json"
    write_bytes(path, to_json(record))
    ort = () if record.ort_file is None else (context.folder / record.ort_file,)
    return replace(result, notes={"graph": sentence(record)}, attachments=(path, *ort))
