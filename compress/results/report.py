"""`report.json`: everything a run was made from and everything that was measured.

Strict JSON. An infinite SQNR (outputs equal to the source's, bit by bit) is the string `"Infinity"`; what was not
measured is `null`, with its reason under `caveats` and, for people, among the `notes`. `schema_version` grows when a
field changes meaning or goes away; added fields keep it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from compress.core.budget import Outcome
from compress.core.chance import AtChance
from compress.core.errors import ConfigError, StageError
from compress.core.measurement import Measurement
from compress.core.quantities import Amount, Count, Few, Many
from compress.core.stage import LeftOut
from compress.measure.drift import Drift
from compress.measure.estimate.roofline import Estimate
from compress.measure.host import Host
from compress.measure.ranges import TensorRange
from compress.profile.slower import Slower
from compress.results.device import DeviceRun
from compress.results.worded import with_caveats
from compress.support.plain_json import NotJson, parse_json
from compress.support.serialize import from_json, to_json

__all__ = ["REPORT", "SCHEMA_VERSION", "Report", "ReportFile", "SplitSummary"]

REPORT = "report.json"
"""Name of the file in the run folder."""

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class SplitSummary:
    """Summary of the samples that a split holds."""

    samples: Count
    sha256: str


@dataclass(frozen=True)
class ReportFile:
    """A file the run delivered; `path` is relative to the run folder."""

    path: str
    size_bytes: Count
    sha256: str


@dataclass(frozen=True)
class Report:
    """One run.

    Attributes:
        created: local time with offset, ISO 8601.
        target: name of the target profile; `target_title` is for people.
        overrides: what the user typed after `python -m compress`.
        config: the composed configuration.
        commit: checked out in the user's working folder; None outside a repository.
        host: the machine that measured; it is not the target device.
        versions: of the libraries that compute, export or run models.
        splits: samples of each split by name.
        measurements: the source first, then each stage in order.
        files: what was delivered.
        wall_seconds: of the whole run, measuring included.
        drift: each exported INT8 file against the INT8 graph it was made from.
        estimates: what the exported ONNX files may take on the device, where no board measured it.
        devices: what boards measured themselves with the bundle of this run.
        left_out: stages of the recipe that cannot take the model, and why.
        at_chance: set where the FP32 source is no better than chance: the labels may not fit the model.
        budget: what became of the accuracy budget in each delivered format.
        ranges: what the INT8 graphs' integers span, and the values that met them.
        slower: why INT8 files take longer here than their FP32 ones; empty where they do not.
    """

    created: str
    target: str
    target_title: str
    overrides: Few[str]
    config: Mapping[str, JsonValue]
    seed: int
    commit: str | None
    host: Host
    versions: Mapping[str, str]
    classes: Count
    splits: Mapping[str, SplitSummary]
    measurements: Few[Measurement]
    files: Many[ReportFile]
    wall_seconds: Amount
    drift: Few[Drift] = ()
    devices: Few[DeviceRun] = ()
    estimates: Few[Estimate] = ()
    ranges: Many[TensorRange] = ()
    left_out: Few[LeftOut] = ()
    at_chance: AtChance | None = None
    budget: Few[Outcome] = ()
    slower: Few[Slower] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    def to_json(self) -> bytes:
        """The content of `report.json`."""
        return to_json(self)

    @staticmethod
    def from_json(content: bytes) -> Report:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: not a report, or one of a newer schema.
        """
        version = _schema_version(content)
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"the report has schema version {version}, this program reads {SCHEMA_VERSION}",
                fix="run again to make a new report, or use the release that wrote it",
            )
        try:
            report = from_json(Report, content)
        except StageError as error:
            raise ConfigError(error.problem) from error
        if not report.measurements:
            raise ConfigError("not a report of a run: measurements is empty, and its first is that of the source")
        return report if b'"caveats"' in content else _typed(report)


def _typed(report: Report) -> Report:
    """A report of before caveats were typed, with them."""
    return replace(report, measurements=tuple(map(with_caveats, report.measurements)))


def _schema_version(content: bytes) -> object:
    try:
        document = parse_json(content)
    except NotJson as error:
        raise ConfigError(f"not a report: {error}") from error
    if not isinstance(document, dict) or "schema_version" not in document:
        raise ConfigError("not a report: it has no schema_version", fix="give the report.json of a run")
    return document["schema_version"]
