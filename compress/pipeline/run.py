"""One run: from typed overrides to a run folder and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from compress.config.compose import Tree
from compress.config.schema import RunConfig
from compress.core.artifact import Artifact
from compress.core.errors import CompressError, DeviceError, StageError
from compress.core.stage import LeftOut, Progress
from compress.data import load_splits
from compress.data.splits import require_classes
from compress.device.fleet import measure_all
from compress.device.inventory import find_devices
from compress.device.transport import Transport
from compress.device.visit import BenchOptions, check_device
from compress.formats import runtimes
from compress.models import class_names, load_model, model_digest, self_contained
from compress.pipeline.analyses import Analyses, analyse, misses
from compress.pipeline.attach import attach
from compress.pipeline.deliver import (
    BUNDLE,
    copy_artifacts,
    copy_reports,
    write_device_bundle,
    write_golden,
    write_manifest,
)
from compress.pipeline.execute import Result, Run, execute
from compress.pipeline.plan import Pipeline
from compress.pipeline.record import create_report, summarize_file
from compress.pipeline.request import Plan, Request, plan_run
from compress.pipeline.store import StageStore
from compress.report.loggers import RunFacts, flattened, logged
from compress.report.pages import run_pages
from compress.results.bundle import read_bundle
from compress.results.manifest import delivered_files
from compress.results.report import REPORT, Report
from compress.support.files import assemble, write_bytes, write_in_order

__all__ = ["Finished", "run_once"]

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """A run that went through: where it lies, what was measured, and which devices failed at it."""

    folder: Path
    report: Report
    failures: tuple[CompressError, ...] = ()


def run_once(request: Request, progress: Progress) -> Finished:
    """Compose, check, execute and deliver.

    Raises:
        ConfigError: the request is wrong; no stage was started.
        StageError: a stage failed; the stages before it stay in the store for the next run.
    """
    started = time.perf_counter()
    plan = plan_run(request)
    config, pipeline = plan.config, plan.pipeline
    name = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    devices = _reached(config, pipeline, progress)
    facts = RunFacts(f"{pipeline.target.name}/{name}", config.output, flattened(plan.tree))
    with logged(config.logger, facts) as logger:
        finished = _carried_out(request, plan, name, devices, progress, started)
        if logger is not None:
            logger.finished(finished.folder, tuple(row.stage for row in finished.report.measurements))
    return finished


def _carried_out(
    request: Request, plan: Plan, name: str, devices: dict[str, Transport], progress: Progress, started: float
) -> Finished:
    """Execute a plan that was begun at `started`, and deliver it as the run `name`."""
    config, pipeline = plan.config, plan.pipeline
    for absent in pipeline.left_out:
        progress.log(f"{absent.stage} is left out: {absent.reason}")
    run = _prepare(config, pipeline, plan.trusted.__contains__, progress)
    pipeline.foresee(run.source)
    try:
        return _delivered(request, plan, run, name, devices, progress, started)
    finally:
        _trim(run.store, config.cache_gib, progress)


def _trim(store: StageStore, limit_gib: float, progress: Progress) -> None:
    """Keep what is stored within its limit, and say so where something is removed."""
    try:
        done = store.enforce(int(limit_gib * 2**30))
    except StageError as error:
        progress.log(f"what is stored is not pruned: {error.problem}")
        return
    if done.removed or done.left_bytes > limit_gib * 2**30:
        progress.log(
            f"what is stored reached cache_gib={limit_gib:g}: {done.removed} that were not used for longest are "
            f"removed ({done.removed_bytes / 2**30:.1f} GiB), {done.left_bytes / 2**30:.1f} GiB are left; "
            "python -m compress.cache lists them"
        )


def _delivered(
    request: Request, plan: Plan, run: Run, name: str, devices: dict[str, Transport], progress: Progress, started: float
) -> Finished:
    """Execute a prepared run, deliver it, and let the devices measure it."""
    tree, config, pipeline = plan.tree, plan.config, plan.pipeline
    results = execute(pipeline, run)
    analyses = analyse(results, run)

    def fill(folder: Path) -> None:
        delivered = copy_artifacts(results, folder)
        copy_reports(results, run.store, folder)
        write_golden(folder, run.source, delivered, run.splits, config.golden_samples)
        write_device_bundle(folder, pipeline.target, run.source, delivered, run.splits)
        seconds = time.perf_counter() - started
        report = _report(request, tree, config, run, results, analyses, folder, seconds, pipeline.left_out)
        write_bytes(folder / REPORT, report.to_json())
        write_in_order(folder, list(run_pages(report, folder).items()))
        write_manifest(folder, pipeline.target.name, run.source, delivered, run.splits)

    folder = assemble(config.output / pipeline.target.name, name, fill)
    failures = (*misses(analyses.budget), *_measure_on_devices(devices, folder, config, progress))
    return Finished(folder, Report.from_json((folder / REPORT).read_bytes()), failures)


def _reached(config: RunConfig, pipeline: Pipeline, progress: Progress) -> dict[str, Transport]:
    """The devices that will measure; one that cannot be reached stops the run before any work."""
    transports = find_devices(config.device.names, inventory=config.device.inventory, target=pipeline.target.name)
    for transport in transports.values():
        progress.log(check_device(transport))
    return transports


def _measure_on_devices(
    devices: dict[str, Transport], folder: Path, config: RunConfig, progress: Progress
) -> tuple[CompressError, ...]:
    """Let every device measure the bundle, and put what it found into the report; why some found nothing."""
    if not devices or not (folder / BUNDLE).is_dir():
        return ()
    bundle = read_bundle(folder / BUNDLE)
    fleet = measure_all(devices, bundle, BenchOptions(seconds=config.device.seconds), progress.log)
    for line in attach(bundle, fleet.runs):
        progress.log(line)
    wrong = [DeviceError(f"{run.name}: a model failed there, see the report") for run in fleet.runs if not run.valid]
    return (*fleet.failures.values(), *wrong)


def _prepare(config: RunConfig, pipeline: Pipeline, trusted: Callable[[str], bool], progress: Progress) -> Run:
    splits = load_splits(config.data, config.model.input.spec(), lambda: class_names(config.model))
    loaded = load_model(config.model, trusted=trusted, seed=config.seed, progress=progress, finetune=splits.finetune)
    models = config.output / ".cache" / "models"
    store = StageStore(config.output / ".cache" / "stages", beside=[models])
    source = _in_one_file(loaded, models, store)
    require_classes(splits, _outputs(source))
    return Run(
        target=pipeline.target,
        source=source,
        source_digest=model_digest(source),
        splits=splits,
        measure=config.measure,
        store=store,
        seed=config.seed,
        resume=config.resume,
        progress=progress,
        budget=config.budget,
    )


def _in_one_file(loaded: Artifact, models: Path, store: StageStore) -> Artifact:
    """The whole model in one file; where that is a copy below `models`, it stays there as long as the store lives."""
    while True:
        source = self_contained(loaded, models)
        if source is loaded or source.path == loaded.path:
            return source
        store.keep(models, source.path.parent.name)
        if source.path.exists():  # nobody removed it before it was held
            return source


def _outputs(source: Artifact) -> int:
    """Number of logits the model gives."""
    image = np.zeros((1, *source.input.shape), np.float32)
    return int(runtimes.load(source, threads=1)(image).shape[1])


def _report(
    request: Request,
    tree: Tree,
    config: RunConfig,
    run: Run,
    results: list[Result],
    analyses: Analyses,
    folder: Path,
    seconds: float,
    left_out: tuple[LeftOut, ...],
) -> Report:
    return create_report(
        created=datetime.now().astimezone(),
        target=run.target.name,
        target_title=run.target.title,
        overrides=request.overrides,
        config=tree,
        seed=config.seed,
        splits=run.splits,
        measurements=tuple(result.measurement for result in results),
        files=tuple(summarize_file(folder, path) for path in delivered_files(folder)),
        drift=analyses.drift,
        ranges=analyses.ranges,
        slower=analyses.slower,
        budget=analyses.budget,
        estimates=analyses.estimates,
        wall_seconds=seconds,
        left_out=left_out,
    )
