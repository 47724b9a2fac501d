"""What the user names on the command line, as a model to profile: a file, or the newest file of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from compress.errors import ConfigError
from compress.files import inside, sha256_file
from compress.profile.layer import Source
from compress.profile.readers import PROFILED
from compress.reading import is_file, read_bytes, unreadable
from compress.types import Format, InputSpec, Precision

__all__ = ["from_file", "from_run"]

_FORMATS = {
    ".onnx": Format.ONNX,
    ".tflite": Format.TFLITE,
    ".engine": Format.TENSORRT,
    ".plan": Format.TENSORRT,
    ".pt2": Format.TORCH,
    ".pt": Format.TORCH,
    ".ts": Format.TORCHSCRIPT,
    ".torchscript": Format.TORCHSCRIPT,
}


class _File(BaseModel):
    """The part of a manifest's file record that is read here."""

    path: str
    sha256: str
    stage: str | None = None
    format: Format | None = None
    precision: Precision | None = None
    history: tuple[str, ...] = ()


class _Manifest(BaseModel):
    input: InputSpec
    files: tuple[_File, ...]


def from_file(path: Path, shape: Sequence[int]) -> Source:
    """A model file, its format by its suffix.

    Args:
        shape: channels, height and width of the image that a PyTorch file takes.

    Raises:
        ConfigError: missing, of no known format, or not what its suffix says.
    """
    if (reason := unreadable(path)) is not None:
        raise ConfigError(f"{path} cannot be read: {reason}", fix="name a model file, a run folder or a profile.json")
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"{path.name} has no suffix of a model: {', '.join(_FORMATS)}", fix="rename it, or export it")
    if kind is Format.TORCH:
        return _module(path, shape)
    return Source(kind, path, _precision(path) if kind is Format.ONNX else Precision.FP32)


def from_run(folder: Path) -> tuple[Source, str]:
    """The file of a finished run that has the longest history among those that can be profiled, and its stage.

    Raises:
        ConfigError: no run folder, a damaged one, or one without such a file.
    """
    manifest = _read(folder / "manifest.json")
    files = [file for file in manifest.files if file.format in PROFILED and file.stage is not None]
    if not files:
        raise ConfigError(f"{folder} has no file whose layers can be timed", fix="name a model file instead")
    chosen = max(files, key=lambda file: len(file.history))
    path = inside(folder, chosen.path)
    if not is_file(path) or sha256_file(path) != chosen.sha256:
        raise ConfigError(
            f"{path} is not the file that the manifest of the run describes", fix="run the pipeline again"
        )
    assert chosen.format is not None
    assert chosen.stage is not None
    return Source(chosen.format, path, chosen.precision or Precision.FP32, manifest.input), chosen.stage


def _read(path: Path) -> _Manifest:
    try:
        return _Manifest.model_validate_json(read_bytes(path))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent} is no run folder: it has no {path.name}", fix="name outputs/<target>/<run>, or a model file"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged", fix="run the pipeline again, or name a model file") from error


def _precision(path: Path) -> Precision:
    from compress.models.onnx_file import graph_precision
    from compress.models.trial import try_work
    from compress.profile.onnx_feeds import run_once
    from compress.profile.onnx_work import read_graph

    precision = graph_precision(read_graph(path).graph)
    try_work(path, lambda: run_once(path, half=precision is Precision.FP16), None)
    return precision


def _module(path: Path, shape: Sequence[int]) -> Source:
    from compress.models.graph_files import load_graph_file
    from compress.models.trial import try_graph

    channels, height, width = shape
    order = {1: "gray", 3: "rgb"}.get(channels, "planes")
    spec = InputSpec((channels, height, width), order, (0.5,) * channels, (0.5,) * channels)
    try_graph(path, spec, None)
    return Source(Format.TORCH, load_graph_file(path, spec).eval(), Precision.FP32, spec, path.name)
