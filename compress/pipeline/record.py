"""The report of a run, with the facts of this machine, its libraries and the repository around it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from compress.core.budget import Outcome
from compress.core.chance import at_chance
from compress.core.measurement import Measurement
from compress.core.stage import LeftOut, Split, Splits
from compress.measure.drift import Drift
from compress.measure.estimate.roofline import Estimate
from compress.measure.host import describe_host
from compress.measure.ranges import TensorRange
from compress.profile.slower import Slower
from compress.results.report import Report, ReportFile, SplitSummary
from compress.support.files import sha256_file
from compress.support.git_commit import head_commit
from compress.support.versions import tool_versions

__all__ = ["create_report", "summarize_file", "summarize_splits"]


def create_report(
    *,
    created: datetime,
    target: str,
    target_title: str,
    overrides: tuple[str, ...],
    config: Mapping[str, JsonValue],
    seed: int,
    splits: Splits,
    measurements: tuple[Measurement, ...],
    files: tuple[ReportFile, ...],
    wall_seconds: float,
    drift: tuple[Drift, ...] = (),
    estimates: tuple[Estimate, ...] = (),
    ranges: tuple[TensorRange, ...] = (),
    left_out: tuple[LeftOut, ...] = (),
    budget: tuple[Outcome, ...] = (),
    slower: tuple[Slower, ...] = (),
) -> Report:
    """A report of this run, with the facts of this machine, its libraries and the current folder's repository."""
    source = measurements[0].accuracy if measurements else None
    return Report(
        created=created.astimezone().isoformat(timespec="seconds"),
        target=target,
        target_title=target_title,
        overrides=overrides,
        config=config,
        seed=seed,
        commit=head_commit(Path.cwd()),
        host=describe_host(),
        versions=tool_versions(),
        classes=len(splits.classes),
        splits=summarize_splits(splits),
        measurements=measurements,
        files=files,
        wall_seconds=wall_seconds,
        drift=drift,
        estimates=estimates,
        ranges=ranges,
        left_out=left_out,
        at_chance=at_chance(source) if source else None,
        budget=budget,
        slower=slower,
    )


def summarize_splits(splits: Splits) -> dict[str, SplitSummary]:
    """Size and content digest of every split, by its name in `Splits`."""
    named: dict[str, Split] = {
        "calibration": splits.calibration,
        "finetune": splits.finetune,
        "validation": splits.validation,
        "evaluation": splits.evaluation,
    }
    return {name: SplitSummary(len(split), split.digest()) for name, split in named.items()}


def summarize_file(folder: Path, path: Path) -> ReportFile:
    """Size and digest of a delivered file."""
    return ReportFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_file(path))
