"""`manifest.json` of a run folder: every file with its checksum, and how to feed the models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from compress.core.artifact import Format, InputSpec, Port, Precision, Scaling
from compress.core.quantities import Count, Many
from compress.support.files import sha256_file, write_in_order
from compress.support.reading import is_file, read_bytes
from compress.support.scratch import locked, unfinished
from compress.support.serialize import from_json, to_json

__all__ = ["MANIFEST", "FileRecord", "Manifest", "delivered_files", "file_record", "update_files"]

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileRecord:
    """One file of the run folder; the model fields are None for files that are not models.

    Attributes:
        ports: input and output of a TFLite file, which differ from the manifest's layout: NHWC, often in integers.
        minimum_runtime: oldest version of TensorFlow Lite's runtime that loads a TFLite file.
    """

    path: str
    sha256: str
    size_bytes: Count
    stage: str | None = None
    format: Format | None = None
    precision: Precision | None = None
    dynamic_batch: bool | None = None
    history: tuple[str, ...] = ()
    ports: tuple[Port, Port] | None = None
    minimum_runtime: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Contents of the run folder and how to feed it. `manifest.json` itself is not listed.

    Attributes:
        scaling: how the pictures that everything was measured with got the input's size; None where an older version
            did not say.
    """

    schema_version: int
    created: str
    producer: str
    target: str
    layout: str
    input: InputSpec
    classes: Many[str]
    files: Many[FileRecord]
    scaling: Scaling | None = None


def delivered_files(folder: Path) -> list[Path]:
    """Every file of a run folder but its manifest, in order; no links, which may lead out of it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    paths = (path for path in paths if path != folder / MANIFEST)
    return sorted(path for path in paths if not unfinished(path.relative_to(folder)))


def file_record(folder: Path, path: Path) -> FileRecord:
    """Digest and size of a file of `folder`; nothing about a model."""
    return FileRecord(path.relative_to(folder).as_posix(), sha256_file(path), path.stat().st_size)


def update_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Add or replace files of a finished run folder, by name, so that its manifest never has a wrong checksum.

    The names leave the manifest just before the files change and come back right after: if that is interrupted, files
    are there that it does not list, and the next update lists them. What is not updated keeps its record, so that a
    file that was damaged since stays recognisable.

    Raises:
        StageError: the manifest cannot be read, or the file system refuses.
    """
    path = folder / MANIFEST
    if not is_file(path):
        write_in_order(folder, list(contents.items()))
        return
    with locked(folder, busy=lambda: None):
        manifest = from_json(Manifest, read_bytes(path))
        kept = {record.path: record for record in manifest.files if record.path not in contents}
        names = {file.relative_to(folder).as_posix(): file for file in delivered_files(folder)}
        new = {name: file_record(folder, names[name]) for name in names.keys() - kept.keys() - contents.keys()}
        new |= {name: FileRecord(name, hashlib.sha256(text).hexdigest(), len(text)) for name, text in contents.items()}
        listed = tuple(sorted((*kept.values(), *new.values()), key=lambda record: record.path))
        before = (MANIFEST, to_json(replace(manifest, files=tuple(kept.values()))))
        after = (MANIFEST, to_json(replace(manifest, files=listed)))
        write_in_order(folder, [before, *contents.items(), after])
