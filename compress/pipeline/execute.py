"""Run a checked pipeline: the only loop. Every boundary is measured; finished stages are found again by content."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.artifact import Artifact, Format, Precision
from compress.core.budget import Budget
from compress.core.errors import StageError
from compress.core.measurement import LatencyRatio, Measurement, Race
from compress.core.stage import Context, Progress, Splits
from compress.core.target import Target
from compress.measure.boundary import MeasureConfig, RecordedLogits, measure
from compress.measure.comparable import comparable_latency
from compress.measure.host import describe_host, int8_trusted
from compress.measure.memory import PeakMemory
from compress.measure.race import race
from compress.pipeline.plan import SOURCE, Pipeline, Step
from compress.pipeline.store import Found, StageStore, content_key
from compress.support.files import make_folder
from compress.support.observe import observe
from compress.support.serialize import to_json
from compress.support.signals import require_uninterrupted
from compress.support.versions import source_digest, tool_versions
from compress.verify.hold import hold
from compress.verify.judge import Judge

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Output", "Result", "Run", "execute"]

_details = logging.getLogger(__name__)
"""Lines for those who ask for them (`-v`)."""

_LONG_TIMING_SECONDS = 10.0


@dataclass(frozen=True)
class Run:
    """Inputs and settings that a pipeline is executed with.

    Attributes:
        source: the model as loaded.
        source_digest: SHA-256 of its content.
        budget: what the run may lose.
    """

    target: Target
    source: Artifact
    source_digest: str
    splits: Splits
    measure: MeasureConfig
    store: StageStore
    seed: int
    resume: bool
    progress: Progress
    budget: Budget = field(default_factory=lambda: Budget(drop=None))

    @property
    def source_module(self) -> nn.Module | None:
        """The loaded module; None when the source is a file."""
        return self.source.module if self.source.format is Format.TORCH else None

    @cached_property
    def environment(self) -> dict[str, object]:
        """Environment that every stage's result depends on besides its own inputs."""
        return {"versions": tool_versions(), "code": source_digest(), "target": to_json(self.target).decode()}

    @cached_property
    def measured_with(self) -> str:
        """Key of everything a measurement depends on besides the artifact."""
        return content_key(
            {
                "reference": self.source_digest,
                "evaluation": self.splits.evaluation.digest(),
                "measure": self.measure.model_dump(mode="json"),
                "host": to_json(describe_host()).decode(),
                **self.environment,
            }
        )

    @cached_property
    def reference(self) -> RecordedLogits:
        """The source model's outputs on the evaluation split, computed when something is first compared with them."""
        path = self.recorded_path(self.source_digest)
        return RecordedLogits.compute(self.source, self.splits.evaluation, path, self.measure, self.progress)

    def recorded_path(self, digest: str) -> Path:
        """Path of the logits of an output on the evaluation split, once they were computed."""
        return self.store.folder(digest) / f"logits-{self.measured_with[:16]}.npy"

    @cached_property
    def judge(self) -> Judge:
        """Compares models with the source on validation images; the source runs when something is first judged."""
        return Judge(self.source, self.splits, self.budget)

    @cached_property
    def judged_with(self) -> dict[str, object]:
        """Settings that a verdict depends on besides the model."""
        splits = {name: getattr(self.splits, name).digest() for name in ("validation", "calibration")}
        return {"source": self.source_digest, "budget": self.budget.model_dump(mode="json"), **splits}


class Output:
    """The output of one step: its digest now, its artifact when somebody needs it."""

    def __init__(self, digest: str, produce: Callable[[], Artifact], artifact: Artifact | None = None) -> None:
        self.digest = digest
        self._produce = produce
        self._artifact = artifact

    @property
    def artifact(self) -> Artifact:
        """The artifact; read back from the store, or made again, if it is not in memory."""
        if self._artifact is None:
            self._artifact = self._produce()
        return self._artifact

    def release(self) -> None:
        """Let a live module go; it can be produced again."""
        self._artifact = None


@dataclass(frozen=True)
class Result:
    """One boundary of a finished run: what was measured, and the output it was measured on."""

    measurement: Measurement
    output: Output


@dataclass(frozen=True)
class _Cost:
    """Cost of making an output, and whether that was in an earlier run."""

    seconds: float | None = None
    peak_rss_bytes: int | None = None
    reused: bool = False


def execute(pipeline: Pipeline, run: Run) -> list[Result]:
    """Run every step in order and measure its output; the source comes first.

    Raises:
        StageError: a stage failed. Stages that finished before it stay in the store.
    """
    outputs = {SOURCE: Output(run.source_digest, lambda: run.source)}
    results = [_measured(SOURCE, outputs[SOURCE], _Cost(), run)]
    _tell(0, results[0].measurement)
    looked_at = _int8_graphs_of_files(pipeline)
    for position, step in enumerate(pipeline.steps):
        label = f"{step.name} ({position + 1} of {len(pipeline.steps)})"
        output, cost = _finish(step, outputs[step.feed], run, label)
        outputs[step.name] = output
        if step.stage.produces is None:
            fed = next(result.measurement for result in results if result.measurement.stage == step.feed)
            results.append(_handed_on(step, output, cost, fed))
        else:
            results.append(_raced(_measured(step.name, output, cost, run), results, run))
        _tell(position + 1, results[-1].measurement)
        _release_unused(outputs, pipeline.steps[position + 1 :], looked_at)
    return results


def _finish(step: Step, feed: Output, run: Run, label: str) -> tuple[Output, _Cost]:
    """The step's output: found in the store, or made now, shown as `label`."""
    key = _stage_key(step, feed, run)
    _details.debug("%s: takes %s, makes %s %s", label, step.feed, step.precision, step.format)
    finished = _found(step, feed, key, run, label)
    if finished is not None:
        return finished
    with run.store.making(key, lambda: run.progress.log(f"{label}: another run is making the same; waiting for it")):
        finished = _found(step, feed, key, run, label)  # what was waited for
        return finished or _made(step, feed, key, run, label)


def _found(step: Step, feed: Output, key: str, run: Run, label: str) -> tuple[Output, _Cost] | None:
    entry = run.store.find(key) if run.resume else None
    if entry is None:
        return None
    _details.debug("%s: found in %s", label, run.store.folder(key))
    return Output(key, _restorer(step, feed, key, entry, run)), _Cost(entry.seconds, entry.peak_rss_bytes, True)


def _made(step: Step, feed: Output, key: str, run: Run, label: str) -> tuple[Output, _Cost]:
    with PeakMemory() as memory:
        started = time.perf_counter()
        (artifact,) = [_run_stage(step, feed, key, run) for _ in run.progress.track((step,), label)]
        seconds = time.perf_counter() - started
    require_uninterrupted()
    _details.debug("%s: peak memory %.0f MiB", label, memory.peak_bytes / 2**20)
    entry = run.store.save(key, artifact, seconds, memory.peak_bytes, source=run.source_module)
    return Output(key, _restorer(step, feed, key, entry, run), artifact), _Cost(seconds, memory.peak_bytes)


def _restorer(step: Step, feed: Output, key: str, stored: Found, run: Run) -> Callable[[], Artifact]:
    """Return a function that gets the artifact again; a module that could not be kept is made again from its input."""
    if stored.restorable:
        return lambda: run.store.load(key, source=run.source_module)
    return lambda: _run_stage(step, feed, key, run)


def _run_stage(step: Step, feed: Output, key: str, run: Run) -> Artifact:
    folder = run.store.folder(key)
    make_folder(folder)
    judge = run.judge if _held(step, run) else None
    context = Context(step.name, run.target, run.splits, folder, run.seed, run.progress, run.source, judge)
    artifact = step.stage.run(feed.artifact, context)
    if artifact.format is not step.format:
        raise StageError(
            f"stage {step.name!r} promises {step.format} and made {artifact.format}: what follows was checked for that",
            fix=f"correct {type(step.stage).__name__}.produces",
        )
    hold(step.stage, feed.artifact, artifact, context, exact_int8=int8_trusted(describe_host(), reduce_range=False))
    return artifact


def _stage_key(step: Step, feed: Output, run: Run) -> str:
    """Digest of everything the step's output depends on: the same key means the same bytes."""
    return content_key(
        {
            "stage": f"{type(step.stage).__module__}.{type(step.stage).__qualname__}",
            "name": step.name,
            "options": step.stage.model_dump(mode="json", exclude={"source", "before", "baseline"}),
            "input": feed.digest,
            "data": {name: getattr(run.splits, name).digest() for name in step.stage.data_used},
            "seed": run.seed,
            "surroundings": step.stage.surroundings(),
            "judged": run.judged_with if _held(step, run) else None,
            **run.environment,
        }
    )


def _held(step: Step, run: Run) -> bool:
    """Tell whether the step backs off where it would break the budget."""
    return step.stage.held and not step.recovered and run.budget.drop is not None


def _measured(name: str, output: Output, cost: _Cost, run: Run) -> Result:
    """Measure one boundary, or find what an earlier run measured on the very same output."""
    earlier = run.store.find_measurement(output.digest, run.measured_with) if run.resume else None
    if earlier is not None:
        notes = output.artifact.notes if name == SOURCE else {}  # the same weights may come from another file
        measurement = replace(earlier, stage=name, reused=True, notes={**earlier.notes, **notes})
    else:
        _announce(f"{name}: timing", run)
        measured = measure(
            output.artifact,
            stage=name,
            reference=run.reference,
            splits=run.splits,
            config=run.measure,
            progress=run.progress,
            recorded=_recorded(name, output, run),
        )
        require_uninterrupted()
        measurement = replace(measured, seconds=cost.seconds, peak_rss_bytes=cost.peak_rss_bytes, reused=cost.reused)
        run.store.save_measurement(output.digest, run.measured_with, measurement)
    return Result(measurement, output)


def _recorded(name: str, output: Output, run: Run) -> RecordedLogits | None:
    """Logits that are needed more than once: the source's, and those of an INT8 graph, which its files are held to."""
    if name == SOURCE:
        return run.reference
    artifact = output.artifact
    int8_graph = artifact.format is Format.TORCH and artifact.precision is Precision.INT8
    if not int8_graph or run.measure.scope == "quick":
        return None
    path = run.recorded_path(output.digest)
    return RecordedLogits.compute(
        artifact, run.splits.evaluation, path, run.measure, run.progress, f"{name}: INT8 reference outputs"
    )


def _raced(result: Result, earlier: Sequence[Result], run: Run) -> Result:
    """Time it in turn with the earliest output that its latency may be compared with: medians that were taken one
    after the other are no comparison on a machine whose clock changes in between."""
    row = result.measurement
    base = comparable_latency([candidate.measurement for candidate in [*earlier, result]], row)
    if base is None:
        return result
    against = next(candidate.output for candidate in earlier if candidate.measurement is base)
    name = f"raced-{content_key({'measured_with': run.measured_with, 'against': against.digest})[:16]}"
    ratio = run.store.find_document(result.output.digest, name, LatencyRatio) if run.resume else None
    if ratio is None:
        _announce(f"{row.stage}: racing {base.stage}", run)
        ratio = race(
            result.output.artifact,
            against.artifact,
            threads=run.measure.threads,
            seconds=run.measure.latency_seconds,
        )
        run.store.save_document(result.output.digest, name, ratio)
    notes = {**row.notes, "race": f"{ratio.doubt} (against {base.stage})"} if ratio.doubt else row.notes
    return Result(replace(row, race=Race(base.stage, ratio), notes=notes), result.output)


def _handed_on(step: Step, output: Output, cost: _Cost, fed: Measurement) -> Result:
    """The row of a stage that only looked: nothing new to measure, so its figures are those of what it was given."""
    measurement = replace(
        fed,
        stage=step.name,
        seconds=cost.seconds,
        peak_rss_bytes=cost.peak_rss_bytes,
        reused=cost.reused,
        handed_on=True,
        feed=step.feed,
        notes={**fed.notes, **output.artifact.notes},
    )
    return Result(measurement, output)


def _tell(position: int, row: Measurement) -> None:
    """The figures of a boundary, for a logger; `position` 0 is the source."""
    accuracy, fidelity = row.accuracy, row.fidelity
    observe("stages/size_bytes", position, row.size_bytes)
    observe("stages/size_gzip_bytes", position, row.size_gzip_bytes)
    observe("stages/sparsity", position, row.sparsity.fraction if row.sparsity else None)
    observe("stages/macs", position, row.macs)
    observe("stages/parameters", position, row.parameters)
    observe("stages/top1", position, accuracy.top1 if accuracy else None)
    observe("stages/agreement", position, fidelity.agreement if fidelity else None)
    observe("stages/sqnr_db", position, fidelity.sqnr_db if fidelity else None)
    observe("stages/latency_ms", position, row.latency.median_ms if row.latency else None)
    observe("stages/seconds", position, row.seconds)


def _announce(message: str, run: Run) -> None:
    """Say that a long timing begins: there is no bar in it (`quiet.undisturbed`)."""
    if run.measure.latency_seconds >= _LONG_TIMING_SECONDS:
        run.progress.log(f"{message}, for up to {1.5 * run.measure.latency_seconds:.0f} s")  # a third warms up


def _int8_graphs_of_files(pipeline: Pipeline) -> set[str]:
    """Steps whose output the analyses look at once more: reading a graph back takes longer than they do."""
    feeds = {step.feed for step in pipeline.steps if step.format is not Format.TORCH}
    return {
        step.name
        for step in pipeline.steps
        if step.name in feeds and step.format is Format.TORCH and step.precision is Precision.INT8
    }


def _release_unused(outputs: dict[str, Output], later: tuple[Step, ...], looked_at: set[str]) -> None:
    """Keep in memory only the modules that a later step takes, or the analyses."""
    needed = {SOURCE, *looked_at, *(step.feed for step in later)}
    for name, output in outputs.items():
        if name not in needed:
            output.release()
