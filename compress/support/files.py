"""Files that are either whole or absent, and the digests that prove it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compress.core.errors import StageError
from compress.support.reading import absolute, open_regular
from compress.support.scratch import scratch_folder

__all__ = [
    "assemble",
    "atomic_path",
    "cannot_write",
    "copy_file",
    "copy_new",
    "inside",
    "make_folder",
    "new_folder",
    "sha256_file",
    "write_bytes",
    "write_in_order",
    "write_json",
]

_CHUNK_BYTES = 1 << 20
_SHOWN = 200  # characters of a name that is none


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write to, with the name of `path`; on success it is synced and renamed over `path`.

    Whatever happens (an exception, Ctrl-C, SIGKILL), `path` holds its old content or the complete new content, never a
    part; what a killed process leaves beside it, the next one that writes there removes.

    Raises:
        StageError: the file system refused (full, read-only, no permission).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path.parent) as scratch:
            temporary = scratch / path.name  # the whole name: some writers choose their format by its suffix
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def assemble(parent: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write a folder, then give it its name: `parent/name`, or `name-2`, ... where that is taken.

    It appears whole or not at all, and never in the place of another one, however many processes do this at once.

    Raises:
        StageError: the folder cannot be created or written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(parent) as scratch:
            folder = scratch / name
            folder.mkdir()
            fill(folder)
            return _first_free(parent / name, folder.rename)
    except OSError as error:
        raise cannot_write(parent, error) from error


def new_folder(path: Path) -> Path:
    """Create a folder that nobody else has: `path`, or `<path>-2`, ... where that is taken.

    Raises:
        OSError: the file system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return _first_free(path, lambda candidate: candidate.mkdir())


def cannot_write(path: Path, error: OSError) -> StageError:
    """The one line for a full, read-only or forbidden disk."""
    return StageError(
        f"cannot write {path}: {error.strerror or error}",
        fix="free disk space or choose a writable folder with output=<folder>",
    )


def make_folder(path: Path) -> None:
    """Create a folder and its parents; an existing one is fine.

    Raises:
        StageError: the file system refused.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def copy_file(source: Path, path: Path) -> None:
    """Copy a file atomically."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def copy_new(source: Path, path: Path) -> None:
    """Copy a file atomically to a place that is free.

    Raises:
        StageError: something is there already, also under a name that differs in case only; or `copy_file`'s reason.
    """
    names = {entry.name.casefold(): entry.name for entry in os.scandir(path.parent)}
    if (name := names.get(path.name.casefold())) is not None:
        other = f" ({name})" if name != path.name else ""
        raise StageError(
            f"two files of this run are called {path.name}{other}", fix="give one of the stages another name"
        )
    copy_file(source, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_in_order(folder: Path, contents: Sequence[tuple[str, bytes]]) -> None:
    """Write files into `folder`: all are whole on disk before the first gets its name, then each in turn gets it.

    A name may come twice. What a killed process leaves lies beside `folder` where that is possible, not in it.

    Raises:
        StageError: the file system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        outside = folder.resolve().parent
        same_disk = outside.stat().st_dev == folder.stat().st_dev and os.access(outside, os.W_OK)
        with scratch_folder(outside if same_disk else folder) as scratch:
            paths = [scratch / str(number) for number in range(len(contents))]
            for path, (_, content) in zip(paths, contents, strict=True):
                path.write_bytes(content)
                _sync(path)
            for path, (name, _) in zip(paths, contents, strict=True):
                path.replace(folder / name)
            _sync(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error


def write_json(path: Path, document: object) -> None:
    """Write an indented JSON document atomically, with a trailing newline and strict (finite) numbers."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused unless it stays inside `root` (names may come from a stranger's manifest).

    Raises:
        StageError: the name is absolute, climbs out of `root`, leaves it through a link, or is none.
    """
    try:
        path, folder = absolute(root / name), absolute(root)
    except OSError as error:
        raise StageError(f"path {name[:_SHOWN]!r} in {root}: {error.strerror}") from error
    if Path(name).is_absolute() or not path.is_relative_to(folder):
        raise StageError(f"path {name!r} leaves the folder {root}")
    return path


def _first_free(path: Path, claim: Callable[[Path], object]) -> Path:
    """The first of `path`, `<path>-2`, ... that can be claimed; `claim` fails where something is, without harm."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    for candidate in itertools.chain([path], numbered):
        if os.path.lexists(candidate):
            continue
        try:
            claim(candidate)
        except OSError:
            if os.path.lexists(candidate):  # somebody was faster
                continue
            raise
        return candidate
    raise AssertionError("numbers do not end")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
