"""`manifest.json` of a bundle: what is in it, how to feed it, and what the device's outputs are compared with.

The agent (`agent/benchmark.py`) reads the same file on the device with nothing but the standard library, so a field
added here may be missing there: give it a default on both sides, or raise `SCHEMA_VERSION` on both.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compress.core.artifact import Format, InputSpec, Precision, Scaling
from compress.core.errors import ConfigError, StageError
from compress.core.quantities import Count, Few, Finite, Many, Positive
from compress.support.files import inside, sha256_file
from compress.support.reading import is_file, read_bytes
from compress.support.serialize import from_json

__all__ = ["MANIFEST", "SCHEMA_VERSION", "Bundle", "BundleFile", "BundleModel", "Expected", "Golden", "Manifest"]
__all__ += ["read_bundle"]

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_PROGRAMS = frozenset({"benchmark.py", "build_engine.py", "agent"})
"""What runs on the device; `agent` is a folder."""
_MODULES = (*importlib.machinery.all_suffixes(), ".pth")
_COPY_AGAIN = "make the bundle again, or copy it again"


@dataclass(frozen=True)
class BundleFile:
    """A file of the bundle, `path` relative to it."""

    path: str
    sha256: str
    size_bytes: Count


@dataclass(frozen=True)
class BundleModel:
    """A model of the bundle.

    Attributes:
        stage: that wrote it; also the name of its outputs in the golden file.
        runtime: what is expected to run it on the device.
        runner: the agent's module that runs it, `agent/runners/<runner>.py`; None in bundles of older versions, whose
            formats say it.
        compiled: name under which the device looks for what a compiler made of `path` after the bundle was written;
            only that is run. None where `path` itself is.
        opset: of an ONNX file.
        sample_shape: `(channels, height, width)` of one golden input.
        needs: oldest version that can load the file, by runtime.
        cpu_flags: features of /proc/cpuinfo that its runtime cannot do without, by architecture.
        tolerance: by runtime, or `any`: how far outputs may be from the golden ones (`abs_error`, `relative_error` of
            the largest output, `sqnr_db`).
    """

    stage: str
    path: str
    format: Format
    precision: Precision
    runtime: str
    dynamic_batch: bool
    sample_shape: tuple[Positive, Positive, Positive]
    tolerance: Mapping[str, Mapping[str, Finite]]
    opset: Positive | None = None
    compiled: str | None = None
    runner: str | None = None
    needs: Mapping[str, str] = field(default_factory=dict)
    cpu_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    history: tuple[str, ...] = ()


@dataclass(frozen=True)
class Golden:
    """The file of golden inputs `[n, C, H, W]` and outputs `[n, classes]` by stage, all float32."""

    path: str
    samples: Positive


@dataclass(frozen=True)
class Expected:
    """Device as it is expected to be; `packages` are pinned for its Python and architecture."""

    title: str
    architecture: str
    python: str
    runtime: str
    isa_flags: tuple[str, ...]
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """The whole manifest; `manifest.json` itself is not among `files`.

    Attributes:
        scaling: how pictures got the input's size before the golden inputs were taken; None where an older version
            did not say.
    """

    schema_version: int
    producer: str
    target: str
    device: Expected
    layout: str
    input: InputSpec
    classes: Many[str]
    golden: Golden
    models: Few[BundleModel]
    files: Few[BundleFile]
    scaling: Scaling | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were all compared with its manifest; `digest` is the manifest's SHA-256."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def files(self) -> tuple[BundleFile, ...]:
        """Every file and what was compiled since, the manifest last: a device that has it has everything."""
        own = BundleFile(MANIFEST, self.digest, (self.folder / MANIFEST).stat().st_size)
        return (*self.manifest.files, *self._compiled(), own)

    def _compiled(self) -> Iterator[BundleFile]:
        names = (model.compiled for model in self.manifest.models if model.compiled)
        for path in (_plain(self.folder, name) for name in names):
            if path.is_file():
                yield BundleFile(path.name, sha256_file(path), path.stat().st_size)


def read_bundle(folder: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        ConfigError: there is none, its manifest is damaged or names a path outside or a link, a file is not what it
            says, or there are programs that no bundle has.
    """
    try:
        content = read_bytes(folder / MANIFEST)
        manifest = from_json(Manifest, content)
        for name in _names(manifest):
            _plain(folder, name)
    except OSError as error:
        reason = f"no bundle in {folder}: {error.strerror}"
        raise ConfigError(reason, fix="give the folder that holds manifest.json") from error
    except StageError as error:
        raise ConfigError(f"{folder / MANIFEST}: {error.problem}", fix=_COPY_AGAIN) from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise ConfigError(f"the bundle has schema {manifest.schema_version}, this program reads {SCHEMA_VERSION}")
    _refuse_programs(folder, manifest)
    _verify(folder, manifest)
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def _names(manifest: Manifest) -> Iterator[str]:
    """Every path in a manifest."""
    yield from (file.path for file in manifest.files)
    yield from (model.path for model in manifest.models)
    yield from (model.compiled for model in manifest.models if model.compiled)
    yield manifest.golden.path


def _plain(folder: Path, name: str) -> Path:
    """`folder / name`, refused where it leaves the folder, is the folder, or a part of it is a link.

    Raises:
        StageError: it is.
    """
    path = inside(folder, name)
    if not Path(name).parts:
        raise StageError(f"the path {name!r} names no file")
    above = [part for part in Path(name).parents if part.parts]
    link = next((part for part in (*reversed(above), Path(name)) if (folder / part).is_symlink()), None)
    if link is not None:
        raise StageError(f"{link} is a link: a bundle has plain files only")
    return path


def _refuse_programs(folder: Path, manifest: Manifest) -> None:
    """Nothing lies where Python would import it when a program starts in the bundle's folder.

    Nothing of a bundle is run here; but who works in its folder types `python3`, and a file `json.py` there would be
    taken for the library. What a user put there (results, engines, a virtual environment) is left alone.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if _importable(entry)]
    except OSError as error:
        raise ConfigError(f"no bundle in {folder}: {error.strerror}") from error
    listed = {Path(file.path).parts[0] for file in manifest.files}
    for name in sorted({*names, *(name for name in listed if name.endswith(_MODULES))} - _PROGRAMS):
        raise ConfigError(
            f"{name} in {folder} is a program that no bundle has: Python would import it for a library of its name",
            fix=_COPY_AGAIN,
        )


def _importable(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir(follow_symlinks=True):
        return is_file(Path(entry.path) / "__init__.py")
    return entry.name.endswith(_MODULES)


def _verify(folder: Path, manifest: Manifest) -> None:
    recorded = {file.path: file for file in manifest.files}
    for name in (*(model.path for model in manifest.models), manifest.golden.path):
        if name not in recorded:
            raise ConfigError(f"the manifest has no checksum for {name!r}", fix=_COPY_AGAIN)
    for file in manifest.files:
        path = inside(folder, file.path)
        if not is_file(path):
            raise ConfigError(f"{file.path} is missing from the bundle {folder}", fix=_COPY_AGAIN)
        if path.stat().st_size != file.size_bytes or sha256_file(path) != file.sha256:
            raise ConfigError(
                f"{file.path} in {folder} is not the file its manifest names: its size or SHA-256 differs",
                fix=_COPY_AGAIN,
            )
