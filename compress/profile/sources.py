"""Models to profile that the user names on the command line: a file, or the newest file of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from compress.core.artifact import Format, InputSpec, Precision
from compress.core.errors import ConfigError, ModelError
from compress.formats.registry import by_suffix, supports
from compress.profile.layer import Source
from compress.profile.readers import profiled
from compress.support.files import inside, sha256_file
from compress.support.plain_json import parse_json
from compress.support.reading import is_file, read_bytes, unreadable
from compress.support.serialize import misfit

if TYPE_CHECKING:
    from compress.formats.base import FormatSupport

__all__ = ["from_file", "from_run"]


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
    support = by_suffix(path)
    if support is None:
        known = ", ".join(suffix for one in supports() for suffix in one.suffixes)
        raise ConfigError(f"{path.name} has no suffix of a model: {known}", fix="rename it, or export it")
    if support.format is Format.TORCH:
        return _module(path, shape)
    return Source(support.format, path, _tried(path, support))


def from_run(folder: Path) -> tuple[Source, str]:
    """The file of a finished run that has the longest history among those that can be profiled, and its stage.

    Raises:
        ConfigError: no run folder, a damaged one, or one without such a file.
    """
    manifest = _read(folder / "manifest.json")
    known = profiled()
    files = [file for file in manifest.files if file.format in known and file.stage is not None]
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
        return _Manifest.model_validate(parse_json(read_bytes(path)))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent} is no run folder: it has no {path.name}", fix="name outputs/<target>/<run>, or a model file"
        ) from error
    except (OSError, ValueError) as error:
        reason = misfit(error) if isinstance(error, ValidationError) else getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} is damaged: {reason}", fix="run the pipeline again, or name a model file") from error


def _tried(path: Path, support: FormatSupport) -> Precision:
    """Precision of a stranger's file, once a copy of this process has run it within limits."""
    from compress.models.trial import try_work
    from compress.profile.onnx_feeds import run_once

    precision = support.precision_of(path)
    if support.is_source:
        try_work(path, lambda: run_once(path, half=precision is Precision.FP16), None)
    return precision


def _module(path: Path, shape: Sequence[int]) -> Source:
    from compress.models.graph_files import load_graph_file
    from compress.models.trial import try_graph

    channels, height, width = shape
    order = {1: "gray", 3: "rgb"}.get(channels, "planes")
    spec = InputSpec((channels, height, width), order, (0.5,) * channels, (0.5,) * channels)
    try:
        try_graph(path, spec, None)
    except ModelError as error:  # its fix is an option of a run; here it is a flag
        fix = error.fix and error.fix.replace("model.input.shape=[channels,height,width]", "--input C,H,W")
        raise ModelError(error.problem, fix=fix) from error
    return Source(Format.TORCH, load_graph_file(path, spec).eval(), Precision.FP32, spec, path.name)
