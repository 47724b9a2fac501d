"""The run folder: every exported file, golden inputs and outputs, the report, and a manifest of their checksums.

The folder is put together under a temporary name and renamed when it is whole, so a run that was killed leaves no
folder at all rather than one with a truncated file in it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from compress import __version__
from compress.core.artifact import PLAN_SUFFIX, SCRIPT_SUFFIX, Artifact, Format, is_segment
from compress.core.errors import DeviceMissing
from compress.core.stage import Splits
from compress.core.target import Target
from compress.device.bundle import Content, write_bundle
from compress.formats import runtimes
from compress.formats.base import NotMeasured
from compress.formats.registry import open_file
from compress.formats.tensorrt.plan import CALIBRATION_SUFFIX
from compress.measure.boundary import int8_exact
from compress.measure.host import describe_host
from compress.pipeline.execute import Result
from compress.pipeline.store import StageStore
from compress.results.manifest import MANIFEST, FileRecord, Manifest, delivered_files, file_record
from compress.support.files import copy_new, write_bytes
from compress.support.serialize import to_json

__all__ = ["BUNDLE", "copy_artifacts", "copy_reports", "write_device_bundle", "write_golden", "write_manifest"]

T = TypeVar("T")

GOLDEN = "golden.npz"
BUNDLE = "bundle"


def copy_artifacts(results: Sequence[Result], folder: Path) -> dict[str, Artifact]:
    """Put every exported file into `folder`; the copies by stage name."""
    delivered = {}
    for result in results:
        if result.measurement.format is Format.TORCH:
            continue
        artifact = result.output.artifact
        for attached in artifact.attachments:
            copy_new(attached, folder / attached.name)
        if result.measurement.handed_on:
            continue
        path = folder / artifact.delivered_name
        copy_new(artifact.path, path)
        if artifact.path.name.endswith(PLAN_SUFFIX) or is_segment(artifact.path):
            continue  # the bundle takes it along; there is nothing to run on its own
        beside = tuple(folder / attached.name for attached in artifact.attachments)
        delivered[result.measurement.stage] = replace(artifact, model=path, attachments=beside)
    return delivered


def copy_reports(results: Sequence[Result], store: StageStore, folder: Path) -> None:
    """Put what stages wrote for people (`report.csv`) into `folder`, named after the stage."""
    for result in results:
        for path in sorted(store.folder(result.output.digest).glob("report.*")):
            copy_new(path, folder / f"{result.measurement.stage}{path.suffix}")
        if result.measurement.format is Format.TORCH:  # not delivered itself, what was found out about it is
            for path in store.attachments(result.output.digest):
                copy_new(path, folder / path.name)


def write_golden(folder: Path, source: Artifact, delivered: dict[str, Artifact], splits: Splits, samples: int) -> None:
    """Write `golden.npz`: `inputs`, `labels`, `reference` (the source's logits) and each file's logits by stage name.

    Inputs are the first `samples` of the evaluation split, float32 `[n, C, H, W]`; logits are float32 `[n, classes]`,
    computed here in the runtime of each file.
    """
    batch = next(splits.evaluation.batches(samples))
    arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
        "inputs": batch.images,
        "labels": batch.labels,
        "reference": _logits(source, batch.images),
    }
    logits = arrays["reference"]
    for stage, artifact in delivered.items():
        if not artifact.deferred:
            with suppress(DeviceMissing):
                logits = _logits(artifact, batch.images)
        arrays[stage] = logits  # of what only its device runs: those of the file it is compiled from, the one before
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(folder / GOLDEN, buffer.getvalue())


def _logits(artifact: Artifact, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of as many images at a time as fit: a batch of large ones would be the most memory that a run takes."""
    run, size = runtimes.load(artifact, threads=1), artifact.fitting(len(images))
    return np.concatenate([run(images[start : start + size]) for start in range(0, len(images), size)])


def write_device_bundle(
    folder: Path, target: Target, source: Artifact, delivered: dict[str, Artifact], splits: Splits
) -> None:
    """Write `bundle/` and `bundle.tar.gz`: what the device needs to check and time the exported files itself."""
    if not delivered:
        return
    host = describe_host()
    exact = frozenset(stage for stage, artifact in delivered.items() if int8_exact(artifact, host))
    extra = tuple(sorted(path for path in folder.iterdir() if _for_the_device(path)))
    content = Content(target, source.input, splits.classes, delivered, folder / GOLDEN, exact, extra, splits.scaling)
    write_bundle(content, folder / BUNDLE)


def _for_the_device(path: Path) -> bool:
    """Tell whether a file that is no model is needed where the models run."""
    return path.name.endswith((PLAN_SUFFIX, CALIBRATION_SUFFIX, SCRIPT_SUFFIX)) or is_segment(path)


def write_manifest(folder: Path, target: str, source: Artifact, delivered: dict[str, Artifact], splits: Splits) -> None:
    """Write `manifest.json` over all files in `folder`, last."""
    by_path = {artifact.path: (stage, artifact) for stage, artifact in delivered.items() if not artifact.deferred}
    files = tuple(_record(folder, path, *by_path.get(path, (None, None))) for path in delivered_files(folder))
    manifest = Manifest(
        schema_version=1,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        producer=f"edge-compress {__version__}",
        target=target,
        layout="NCHW",
        input=source.input,
        classes=splits.classes,
        files=files,
        scaling=splits.scaling,
    )
    write_bytes(folder / MANIFEST, to_json(manifest))


def _record(folder: Path, path: Path, stage: str | None, artifact: Artifact | None) -> FileRecord:
    record = file_record(folder, path)
    if artifact is None:
        return record
    file = open_file(artifact)
    return replace(
        record,
        stage=stage,
        format=artifact.format,
        precision=artifact.precision,
        dynamic_batch=artifact.dynamic_batch,
        history=artifact.history,
        ports=_known(file.ports),
        minimum_runtime=_known(file.minimum_runtime),
    )


def _known(question: Callable[[], T]) -> T | None:
    """The answer; None from a format that has none."""
    try:
        return question()
    except NotMeasured:
        return None
