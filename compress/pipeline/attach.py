"""Put what devices found beside the run they measured: a JSON file each, and their rows in the run's report."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from compress.core.errors import ConfigError, StageError
from compress.pipeline.calibrate import calibrate
from compress.pipeline.record import summarize_file
from compress.report.pages import run_pages
from compress.results.bundle import Bundle
from compress.results.device import DeviceRun
from compress.results.manifest import update_files
from compress.results.report import REPORT, Report
from compress.support.reading import is_file, read_bytes
from compress.support.serialize import to_json

__all__ = ["attach"]

_LONGEST_NAME = 100  # characters of a device's name in a file name; file systems take 255 bytes


def attach(bundle: Bundle, runs: Sequence[DeviceRun]) -> Iterator[str]:
    """Write `device-<name>.json` beside the bundle and add the runs to the report there, if there is one.

    Yields:
        A line for the user about each thing written.

    Raises:
        StageError: the file system refuses.
        ConfigError: the report beside the bundle is of another release.
    """
    home = bundle.folder.resolve().parent
    names = _file_names([*_reported(home), *(run.name for run in runs)])
    for run in runs:
        path = home / names[run.name]
        update_files(home, {path.name: to_json(run.result)})
        yield f"{run.name}: {path}"
        try:
            learnt = calibrate(bundle, run)
        except StageError as error:  # a home that is full or read-only costs later estimates, not this result
            yield f"{run.name}: the estimates are not calibrated: {error.problem}"
            continue
        if learnt:
            yield f"{run.name}: {learnt} figures calibrate the estimates for {bundle.manifest.target}"
    if runs and is_file(home / REPORT):
        _update_report(home, runs)
        yield f"report: {home / REPORT}"


def _reported(folder: Path) -> tuple[str, ...]:
    """Names of the devices in the report there; none where it cannot be read, which is told when it is updated."""
    try:
        return tuple(run.name for run in Report.from_json(read_bytes(folder / REPORT)).devices)
    except (OSError, ConfigError):
        return ()


def _file_names(devices: Sequence[str]) -> dict[str, str]:
    """A file name for each device; those that differ only in characters that file names do not have get a digest."""
    plain = {name: re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_LONGEST_NAME] for name in devices}
    shared = Counter(stem.casefold() for stem in plain.values())
    return {
        name: f"device-{stem}.json"
        if shared[stem.casefold()] == 1
        else f"device-{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"
        for name, stem in plain.items()
    }


def _update_report(folder: Path, runs: Sequence[DeviceRun]) -> None:
    report = Report.from_json(read_bytes(folder / REPORT))
    names = {run.name for run in runs}
    others = tuple(run for run in report.devices if run.name not in names)
    paths = (path for path in sorted(folder.glob("device-*.json")) if is_file(path) and not path.is_symlink())
    added = [summarize_file(folder, path) for path in paths]
    files = [file for file in report.files if not file.path.startswith("device-")]
    report = replace(report, devices=(*others, *runs), files=(*files, *added))
    update_files(folder, {REPORT: report.to_json(), **run_pages(report, folder)})
