"""Finished stages on disk, addressed by the content that made them.

    <root>/<key>/entry.json             written last: an entry without it does not exist
    <root>/<key>/<file>                 the artifact, checked against its SHA-256 before every use
    <root>/<key>/measured-<key>.json    what was measured, by what it was measured with

A key is the SHA-256 of everything a result depends on, so an entry is never updated, only found or not. One process at
a time makes an entry (`making`); another one that wants the same waits for it. What a store has used stays in use as
long as it lives (`store_size`).
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import StageError
from compress.core.measurement import Measurement
from compress.pipeline.store_size import Trimmed, hold, trim
from compress.support.files import cannot_write, inside, make_folder, sha256_file, write_bytes
from compress.support.reading import read_bytes
from compress.support.scratch import locked
from compress.support.serialize import from_json, to_json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Found", "StageStore", "content_key"]

T = TypeVar("T")

_ENTRY = "entry.json"


@dataclass(frozen=True)
class _Entry:
    """A stage's output, as described in `entry.json`; `file` is None when a module could not be kept.

    Attributes:
        attachments: SHA-256 by file name.
    """

    format: Format
    precision: Precision
    input: InputSpec
    dynamic_batch: bool
    history: tuple[str, ...]
    file: str | None
    sha256: str | None
    seconds: float
    peak_rss_bytes: int | None
    notes: Mapping[str, str] = field(default_factory=dict)
    attachments: Mapping[str, str] = field(default_factory=dict)
    activation_bytes: int | None = None


@dataclass(frozen=True)
class Found:
    """A finished stage: what it cost when it ran, and whether its artifact can be read back."""

    seconds: float
    peak_rss_bytes: int | None
    restorable: bool


def content_key(parts: Mapping[str, object]) -> str:
    """Hex SHA-256 of a JSON document with sorted keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class StageStore:
    """Finished stages below one folder.

    Args:
        beside: stores of other things that count towards the same limit.
    """

    def __init__(self, root: Path, beside: Sequence[Path] = ()) -> None:
        make_folder(root)  # a place that cannot be written is told now, not after the first stage
        self._root = root
        self._beside = tuple(beside)
        self._held: dict[str, int] = {}
        weakref.finalize(self, _let_go, self._held)

    def folder(self, key: str) -> Path:
        """Folder in which the stage with this key writes its files; nobody removes it as long as this store lives."""
        self.keep(self._root, key)
        return self._root / key

    def keep(self, root: Path, key: str) -> None:
        """Let nobody remove an entry, of this store or of one beside it, as long as this store lives."""
        name = str(root / key)
        if name not in self._held:
            with suppress(OSError):  # a store that can only be read
                self._held[name] = hold(root, key)

    def enforce(self, most_bytes: int) -> Trimmed:
        """Remove what was not used for longest until no more than `most_bytes` is left; nothing that is in use.

        Raises:
            StageError: the file system refuses.
        """
        try:
            return trim(self._root, *self._beside, most_bytes=most_bytes)
        except OSError as error:
            raise cannot_write(self._root, error) from error

    @contextmanager
    def making(self, key: str, busy: Callable[[], None]) -> Iterator[None]:
        """Let one process at a time write this entry.

        Args:
            busy: called before another one that makes the same entry is waited for.

        Raises:
            StageError: the file system refuses.
        """
        folder = self.folder(key)
        make_folder(folder)
        with locked(folder, busy):
            yield

    @staticmethod
    def described(root: Path, key: str) -> str:
        """Describe an entry in words: the stage that made it, precision and format."""
        entry = _entry(root / key)
        if entry is None:
            return "figures, or unfinished"
        return f"{entry.history[-1] if entry.history else 'source'}, {entry.precision} {entry.format}"

    @staticmethod
    def whole(root: Path, key: str) -> bool:
        """Tell whether an entry, if there is one, holds what was written."""
        folder = root / key
        return not os.path.lexists(folder / _ENTRY) or _whole(folder, _entry(folder)) is not None

    def find(self, key: str) -> Found | None:
        """The finished stage, if its files are whole; a damaged one counts as not finished."""
        entry = self._read(key)
        if entry is None:
            return None
        return Found(entry.seconds, entry.peak_rss_bytes, restorable=entry.file is not None)

    def save(
        self, key: str, artifact: Artifact, seconds: float, peak_rss_bytes: int, *, source: nn.Module | None
    ) -> Found:
        """Keep a stage's output. Files are expected in `folder(key)` already."""
        folder = self.folder(key)
        if artifact.format is Format.TORCH:
            from compress.models.persist import save_module

            file = save_module(artifact.module, artifact.input, folder, source=source)
        else:
            file = str(artifact.path.relative_to(folder))
        entry = _Entry(
            format=artifact.format,
            precision=artifact.precision,
            input=artifact.input,
            dynamic_batch=artifact.dynamic_batch,
            history=artifact.history,
            file=file,
            sha256=sha256_file(folder / file) if file else None,
            seconds=seconds,
            peak_rss_bytes=peak_rss_bytes,
            notes=artifact.notes,
            attachments={str(path.relative_to(folder)): sha256_file(path) for path in artifact.attachments},
            activation_bytes=artifact.activation_bytes,
        )
        write_bytes(folder / _ENTRY, to_json(entry))
        return Found(seconds, peak_rss_bytes, restorable=file is not None)

    def load(self, key: str, *, source: nn.Module | None) -> Artifact:
        """Read a finished stage's output back.

        Raises:
            StageError: there is no such entry, or its module could not be kept.
        """
        entry = self._read(key)
        if entry is None or entry.file is None:
            raise StageError(f"no stored output for the stage {key}")
        path = inside(self.folder(key), entry.file)
        model: nn.Module | Path = path
        if entry.format is Format.TORCH:
            from compress.models.persist import load_module

            model = load_module(path, source=source)
        return Artifact(
            entry.format,
            model,
            entry.precision,
            entry.input,
            entry.dynamic_batch,
            entry.history,
            entry.notes,
            tuple(inside(self.folder(key), name) for name in entry.attachments),
            entry.activation_bytes,
        )

    def attachments(self, key: str) -> tuple[Path, ...]:
        """Files beside the output `key`; none where there is no such output."""
        entry = self._read(key)
        return () if entry is None else tuple(inside(self.folder(key), name) for name in entry.attachments)

    def find_document(self, key: str, name: str, kind: type[T]) -> T | None:
        """Document that an earlier run wrote about the output `key` under `name`; None if nothing, or nothing whole."""
        try:
            return from_json(kind, read_bytes(self.folder(key) / f"{name}.json"))
        except (FileNotFoundError, StageError):
            return None

    def save_document(self, key: str, name: str, value: object) -> None:
        """Keep a dataclass about the output `key`; `name` says what it is and what it depends on."""
        write_bytes(self.folder(key) / f"{name}.json", to_json(value))

    def find_measurement(self, key: str, measured_with: str) -> Measurement | None:
        """Measurement by an earlier run of this output with the same samples, options and host."""
        return self.find_document(key, f"measured-{measured_with[:16]}", Measurement)

    def save_measurement(self, key: str, measured_with: str, measurement: Measurement) -> None:
        """Keep what was measured on the output `key`."""
        self.save_document(key, f"measured-{measured_with[:16]}", measurement)

    def _read(self, key: str) -> _Entry | None:
        folder = self.folder(key)
        return _whole(folder, _entry(folder))


def _entry(folder: Path) -> _Entry | None:
    try:
        return from_json(_Entry, read_bytes(folder / _ENTRY))
    except (OSError, StageError):
        return None


def _whole(folder: Path, entry: _Entry | None) -> _Entry | None:
    """The entry, if its files are what was written."""
    if entry is None:
        return None
    files = {**entry.attachments, **({} if entry.file is None else {entry.file: entry.sha256})}
    try:
        return entry if all(sha256_file(inside(folder, name)) == digest for name, digest in files.items()) else None
    except (OSError, StageError):
        return None


def _let_go(held: dict[str, int]) -> None:
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()
