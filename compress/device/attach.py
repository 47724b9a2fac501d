"""Put what devices found beside the run they measured: a JSON file each, and their rows in the run's report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from compress.device.calibrate import calibrate
from compress.device.manifest import Bundle
from compress.device.results import DeviceRun
from compress.files import write_bytes
from compress.serialize import to_json

__all__ = ["attach"]

_REPORT = "report.json"


def attach(bundle: Bundle, runs: Sequence[DeviceRun]) -> Iterator[str]:
    """Write `device-<name>.json` beside the bundle and add the runs to the report there, if there is one.

    Yields:
        A line for the user about each thing written.

    Raises:
        StageError: the file system refuses.
        ConfigError: the report beside the bundle is of another release.
    """
    home = bundle.folder.resolve().parent
    for run in runs:
        path = home / f"device-{re.sub(r'[^A-Za-z0-9._-]', '_', run.name)}.json"
        write_bytes(path, to_json(run.result))
        yield f"{run.name}: {path}"
        learnt = calibrate(bundle, run)
        if learnt:
            yield f"{run.name}: {learnt} figures calibrate the estimates for {bundle.manifest.target}"
    if runs and (home / _REPORT).is_file():
        _update_report(home, runs)
        yield f"report: {home / _REPORT}"


def _update_report(folder: Path, runs: Sequence[DeviceRun]) -> None:
    from compress.deliver import refresh_manifest
    from compress.report.json_report import Report, summarize_file
    from compress.report.pages import write_run_pages

    report = Report.from_json((folder / _REPORT).read_bytes())
    names = {run.name for run in runs}
    kept = tuple(run for run in report.devices if run.name not in names)
    added = [summarize_file(folder, path) for path in sorted(folder.glob("device-*.json"))]
    known = [file for file in report.files if not file.path.startswith("device-")]
    report = replace(report, devices=(*kept, *runs), files=(*known, *added))
    write_bytes(folder / _REPORT, report.to_json())
    write_run_pages(report, folder)
    refresh_manifest(folder)
