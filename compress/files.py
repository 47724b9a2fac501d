"""Files that are either whole or absent, and the digests that prove it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compress.errors import StageError

__all__ = [
    "atomic_path",
    "cannot_write",
    "copy_file",
    "free_path",
    "inside",
    "make_folder",
    "remove_stale_temporaries",
    "sha256_file",
    "write_bytes",
    "write_json",
]

_CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"^\.tmp-(\d+)-")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it is synced and renamed over `path`.

    Whatever happens (an exception, Ctrl-C, SIGKILL), `path` holds its old content or
    the complete new content, never a part.
    The temporary file keeps the suffix because some writers choose their format by it.

    Raises:
        StageError: the file system refused (full, read-only, no permission).
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


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


def free_path(path: Path) -> Path:
    """`path`, or if that exists the first of `<path>-2`, `<path>-3`, ... that does not."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


def copy_file(source: Path, path: Path) -> None:
    """Copy a file atomically."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, document: object) -> None:
    """Write an indented JSON document atomically, with a trailing newline and strict (finite) numbers."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused unless it stays inside `root` (names may come from a stranger's manifest).

    Raises:
        StageError: the name is absolute, climbs out of `root`, or leaves it through a link.
    """
    path = (root / name).resolve()
    if Path(name).is_absolute() or not path.is_relative_to(root.resolve()):
        raise StageError(f"path {name!r} leaves the folder {root}")
    return path


def remove_stale_temporaries(folder: Path) -> None:
    """Delete temporaries left below `folder` by processes that no longer run (killed before they could)."""
    for path in folder.rglob(".tmp-*"):
        match = _TEMPORARY.match(path.name)
        if match and not _running(int(match[1])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # alive, and somebody else's
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
