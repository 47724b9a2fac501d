"""Analyses across a finished run's boundaries: drift, ranges, why INT8 is slower, estimates, and the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from compress.core.artifact import Artifact, Format, Precision
from compress.core.budget import BudgetMissed, Limits, Outcome, Verdict, in_points
from compress.core.errors import DeviceMissing
from compress.core.measurement import Caveat
from compress.core.stage import Progress
from compress.formats.parity import reference_runner
from compress.formats.registry import profiled_by
from compress.formats.runner import Runner
from compress.measure.boundary import int8_exact
from compress.measure.drift import Drift, measure_drift
from compress.measure.estimate.all_files import estimate_all
from compress.measure.estimate.roofline import Estimate
from compress.measure.host import describe_host
from compress.measure.ranges import TensorRange, measure_ranges
from compress.measure.reference import RecordedLogits
from compress.measure.unmeasured import attempt
from compress.pipeline.execute import Output, Result, Run
from compress.pipeline.plan import SOURCE
from compress.pipeline.store import content_key
from compress.profile.slower import Slower, explain

__all__ = ["Analyses", "analyse", "misses"]

T = TypeVar("T")

_EXPLAINED = "onnxruntime"
"""The runtime whose operators `profile.slower` tells apart."""

_DRIFT_SAMPLES = {"full": 128, "quick": 16}
"""128 are enough logits for the largest difference to settle, and are known from evaluating the graph. `quick` runs the
INT8 reference for these few alone: PyTorch emulates it in float, which is slow."""

_RANGE_SAMPLES = 32
_RANGE_SECONDS = 10.0
"""Enough images for the shape of a histogram; a large network gets fewer, and the report says how many."""


@dataclass(frozen=True)
class Analyses:
    """Rows of each analysis, in the order of the stages they are about."""

    drift: tuple[Drift, ...]
    ranges: tuple[TensorRange, ...]
    slower: tuple[Slower, ...]
    estimates: tuple[Estimate, ...]
    budget: tuple[Outcome, ...]


def analyse(results: list[Result], run: Run) -> Analyses:
    """Look at what every stage gave; an analysis that cannot be made is said and left out.

    Raises:
        CompressError: the budget cannot be judged.
    """
    drift = _beside("drift of the exported files", lambda: _drift(results, run), run.progress)
    ranges = _beside("ranges", lambda: _ranges(results, run), run.progress)
    for result in filter(_is_int8_graph, results):
        result.output.release()
    return Analyses(
        drift=drift,
        ranges=ranges,
        slower=_beside("why INT8 is slower", lambda: _slower(results, run), run.progress),
        estimates=_beside("estimates", lambda: _estimates(results, run), run.progress),
        budget=_budget(results, run),
    )


def misses(budget: tuple[Outcome, ...]) -> Iterator[BudgetMissed]:
    """Errors that the command ends with for files that keep no budget."""
    for outcome in budget:
        if outcome.met is False and outcome.verdict is not None:
            yield BudgetMissed(
                f"{outcome.stage} misses the accuracy budget of {outcome.drop:g} points: {in_points(outcome.verdict)}: "
                f"{outcome.reason}; it was delivered all the same, and the report says so",
                fix="precision=int8_auto or int8_qat, a larger budget.drop, or budget=off",
            )


def _beside(name: str, analyse: Callable[[], tuple[T, ...]], progress: Progress) -> tuple[T, ...]:
    """Rows of an analysis; one that fails is said and left out, as the files it looks at are finished."""
    caveats: dict[str, Caveat] = {}
    rows = attempt(name, caveats, analyse)
    for caveat in caveats.values():
        progress.log(f"{name}: {caveat.why}")
    return rows or ()


def _drift(results: list[Result], run: Run) -> tuple[Drift, ...]:
    """Every INT8 file against the INT8 graph it was made from."""
    by_stage = {result.measurement.stage: result for result in results}
    exported: dict[str, list[Result]] = {}
    for result in results:
        row = result.measurement
        feed = by_stage.get(row.feed or "")
        if feed is not None and row.format is not Format.TORCH and _is_int8_graph(feed):
            exported.setdefault(feed.measurement.stage, []).append(result)
    return tuple(row for stage, files in exported.items() for row in _drift_from(by_stage[stage].output, files, run))


def _drift_from(graph: Output, files: list[Result], run: Run) -> tuple[Drift, ...]:
    """Drift of `files` from `graph`, or what an earlier run found for the very same ones."""
    samples, path = _DRIFT_SAMPLES[run.measure.scope], run.recorded_path(graph.digest)
    depends = {"files": [file.output.digest for file in files], "samples": samples, "with": run.measured_with}
    name = f"drift-{content_key(depends)[:16]}"

    def measure() -> _DriftRows:
        named = [(file.measurement.stage, file.output.artifact) for file in files]
        recorded = RecordedLogits(path).open() if path.exists() else None
        return _DriftRows(measure_drift(graph.artifact, named, run.splits, samples, run.progress, recorded))

    return _remembered(graph, name, _DriftRows, measure, run).rows


@dataclass(frozen=True)
class _DriftRows:
    """The rows of one drift matrix, as they are stored."""

    rows: tuple[Drift, ...]


def _ranges(results: list[Result], run: Run) -> tuple[TensorRange, ...]:
    """Ranges of every INT8 graph that a file was made from; `quick` leaves them out."""
    if run.measure.scope == "quick":
        return ()
    feeds = {result.measurement.feed for result in results}
    graphs = [result for result in results if _is_int8_graph(result) and result.measurement.stage in feeds]
    return tuple(row for graph in graphs for row in _ranges_of(graph.output, run))


def _ranges_of(graph: Output, run: Run) -> tuple[TensorRange, ...]:
    """Ranges of `graph`, or what an earlier run found for the very same one."""
    split = run.splits.calibration
    depends = {"images": split.digest(), "samples": _RANGE_SAMPLES, **run.environment}
    name = f"ranges-{content_key(depends)[:16]}"

    def measure() -> _RangeRows:
        return _RangeRows(measure_ranges(graph.artifact, split, samples=_RANGE_SAMPLES, seconds=_RANGE_SECONDS))

    return _remembered(graph, name, _RangeRows, measure, run).rows


@dataclass(frozen=True)
class _RangeRows:
    """The ranges of one graph, as they are stored."""

    rows: tuple[TensorRange, ...]


def _slower(results: list[Result], run: Run) -> tuple[Slower, ...]:
    """Explain each INT8 ONNX file that lost its race against an FP32 one."""
    by_stage = {result.measurement.stage: result for result in results}
    pairs = [(result, by_stage[result.measurement.race.against]) for result in results if result.measurement.race]
    return tuple(_why_slower(int8, fp32, by_stage, run) for int8, fp32 in pairs if _lost(int8, fp32))


def _lost(int8: Result, fp32: Result) -> bool:
    row, base = int8.measurement, fp32.measurement
    of_interest = row.format is base.format and row.precision is Precision.INT8 and profiled_by(_EXPLAINED, row.format)
    surely = row.race is not None and row.race.latency.low > 1
    return of_interest and base.precision is Precision.FP32 and surely and not row.handed_on


def _why_slower(int8: Result, fp32: Result, by_stage: Mapping[str, Result], run: Run) -> Slower:
    """The parts that lose time, or what an earlier run found for the very same files."""
    row, feed = int8.measurement, by_stage.get(int8.measurement.feed or "")
    assert row.race is not None
    ratio = row.race.latency.ratio
    name = f"slower-{content_key({'against': fp32.output.digest, 'with': run.measured_with})[:16]}"

    def measure() -> Slower:
        return explain(
            (row.stage, int8.output.artifact),
            (fp32.measurement.stage, fp32.output.artifact),
            ratio,
            quantizer=feed.measurement.stage if feed is not None and _is_int8_graph(feed) else None,
            threads=run.measure.threads,
            target=run.target,
        )

    return _remembered(int8.output, name, Slower, measure, run)


def _remembered(graph: Output, name: str, kind: type[T], measure: Callable[[], T], run: Run) -> T:
    """The document `name` that an earlier run stored beside `graph`, or what `measure` gives now, stored for later."""
    document = run.store.find_document(graph.digest, name, kind) if run.resume else None
    if document is None:
        document = measure()
        run.store.save_document(graph.digest, name, document)
    return document


def _estimates(results: list[Result], run: Run) -> tuple[Estimate, ...]:
    """Estimate what each exported file may take on the target."""
    exported = [result for result in results if result.measurement.stage != SOURCE and not result.measurement.handed_on]
    files = [result.output.artifact for result in exported if result.measurement.format is not Format.TORCH]
    return estimate_all(run.target, files)


def _budget(results: list[Result], run: Run) -> tuple[Outcome, ...]:
    """Outcome of the budget in the newest file of each format; in the last module where nothing was exported."""
    drop = run.budget.drop
    if drop is None:
        return (Outcome(None, reason="budget=off: nothing was held to the source's accuracy"),)
    changed = [result for result in results if not result.measurement.handed_on]
    files = {result.measurement.format: result for result in changed if result.measurement.format is not Format.TORCH}
    judged = [_outcome(result, drop, run) for result in files.values() or changed[-1:]]
    outcomes = tuple(outcome for outcome in judged if outcome is not None)
    return outcomes or (Outcome(drop, reason="nothing that was delivered runs on this machine"),)


def _outcome(result: Result, drop: float, run: Run) -> Outcome | None:
    """None for what cannot be run here."""
    stage = result.measurement.stage
    try:
        verdict = _verdict(result.output, run)
    except DeviceMissing:
        return None
    if verdict is None:
        return None
    saturates = _saturates(result.output.artifact)
    if not verdict.labelled:
        return Outcome(drop, stage, verdict, None, run.judge.unjudged or "", saturates)
    reason = Limits(drop).shortfall(verdict)
    return Outcome(drop, stage, verdict, reason is None, reason or "", saturates)


def _verdict(output: Output, run: Run) -> Verdict | None:
    """Judge a delivered model, or reuse the verdict of an earlier run on it; None for what only its device makes."""
    if output.artifact.deferred:
        return None
    name = f"verdict-{content_key({**run.judged_with, **run.environment})[:16]}"

    def judged() -> Verdict:
        return run.judge(output.artifact, run=_exact_runner(output.artifact))

    return _remembered(output, name, Verdict, judged, run)


def _exact_runner(artifact: Artifact) -> Runner | None:
    """Runner of a file whose 8-bit products saturate here: every operator as specified, as the device would compute
    it, or with weights in 7 bits where the file's own operators multiply integers."""
    return reference_runner(artifact) if _saturates(artifact) else None


def _saturates(artifact: Artifact) -> bool:
    """Tell whether 8-bit products of the file saturate on this processor."""
    return not int8_exact(artifact, describe_host())


def _is_int8_graph(result: Result) -> bool:
    row = result.measurement
    return row.format is Format.TORCH and row.precision is Precision.INT8
