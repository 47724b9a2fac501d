"""Let real boards calibrate the estimates of their kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format
from compress.core.errors import ConfigError, ModelError
from compress.formats.registry import open_file
from compress.measure.estimate.calibration import Point, add_points
from compress.measure.estimate.roofline import estimate
from compress.measure.unmeasured import NotMeasured
from compress.results.bundle import Bundle, BundleModel
from compress.results.device import DeviceRun

__all__ = ["calibrate"]


def calibrate(bundle: Bundle, run: DeviceRun) -> int:
    """Keep what a board measured as calibration points of its profile; how many there were.

    Emulated boards, virtual machines and other architectures than the bundle's teach nothing.

    Raises:
        StageError: the points cannot be written.
    """
    device = run.result.device
    if device.emulated or device.virtual_machine or device.architecture != bundle.manifest.device.architecture:
        return 0
    return add_points(bundle.manifest.target, list(_points(bundle, run)))


def _points(bundle: Bundle, run: DeviceRun) -> Iterator[Point]:
    try:
        target = load_target(bundle.manifest.target, [])
    except ConfigError:
        return  # a profile of the user's own folder, which is not known here
    models = {model.stage: model for model in bundle.manifest.models if model.format is not Format.TORCH}
    for row in run.result.results:
        model = models.get(row.stage)
        if model is None or row.latency is None or row.batch != 1 or row.threads != run.result.device.cores:
            continue
        path = bundle.folder / model.path
        try:
            _check(path)
            layers = open_file(_artifact(model, bundle)).layers()
            guess = estimate(model.stage, layers, model.precision, target)
        except (NotMeasured, ModelError, LookupError, ValueError, RuntimeError, OverflowError, OSError):
            continue  # a file that is no graph of layers teaches nothing; the device has said what it made of it
        yield Point(
            manifest_sha256=bundle.digest,
            stage=row.stage,
            precision=model.precision,
            device=run.result.device.model,
            runtime=row.runtime or "",
            estimate_ms=guess.ms,
            measured_ms=row.latency.median_ms,
        )


def _artifact(model: BundleModel, bundle: Bundle) -> Artifact:
    path, spec = bundle.folder / model.path, bundle.manifest.input
    return Artifact(model.format, path, model.precision, spec, dynamic_batch=model.dynamic_batch)


def _check(path: Path) -> None:
    """Raise unless the file is a graph whose nodes come in an order, and whose weights lie in its folder."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from compress.formats.onnx.external_data import check_external_data

    try:
        check_external_data(onnx.load(path, load_external_data=False), path)
        onnx.checker.check_model(path)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path} is not a valid ONNX model") from error
