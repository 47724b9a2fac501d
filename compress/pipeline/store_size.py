"""Size of a store (of finished stages, of models in one file), what is in use, and what leaves it beyond a limit.

    <root>/.in-use/<key>     empty; whoever uses the entry holds a shared lock on it, its time is that of the last use

An entry is removed under the exclusive lock alone, so never while a run uses it, and leaves its place at once: it is
moved into a scratch folder, which is removed. Where a file system has no locks, nothing younger than a day is removed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compress.support.scratch import scratch_folder

__all__ = ["Stored", "Trimmed", "hold", "remove", "stored", "trim"]

_IN_USE = ".in-use"
_SURELY_IDLE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Stored:
    """An entry of a store: its size on disk, and when it was last used (seconds since 1970)."""

    root: Path
    key: str
    size_bytes: int
    used: float


@dataclass(frozen=True)
class Trimmed:
    """Numbers of what was removed from stores and what is left; `in_use` entries would have been removed, too."""

    removed: int
    removed_bytes: int
    left_bytes: int
    in_use: int = 0


def stored(*roots: Path) -> list[Stored]:
    """All entries, the one that was not used for longest first; none where there is no such folder.

    Raises:
        OSError: a folder cannot be read.
    """
    entries = [_stored(root, key) for root in roots for key in _keys(root)]
    return sorted(entries, key=lambda entry: (entry.used, entry.key))


def hold(root: Path, key: str) -> int:
    """Mark an entry as used from now on; until the descriptor is closed, nobody removes it.

    Raises:
        OSError: the file system refuses.
    """
    path = root / _IN_USE / key
    path.parent.mkdir(exist_ok=True)
    while True:
        descriptor = _lock_file(path)
        with suppress(OSError):  # no locks here
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is(path, descriptor):
            os.utime(descriptor)
            return descriptor
        os.close(descriptor)  # removed together with its entry, just now


def remove(entry: Stored) -> bool:
    """Remove an entry unless it is in use; whether it was removed.

    Raises:
        OSError: the file system refuses.
    """
    root, path = entry.root, entry.root / _IN_USE / entry.key
    path.parent.mkdir(exist_ok=True)
    descriptor = _lock_file(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            if time.time() - entry.used < _SURELY_IDLE_SECONDS:
                return False
        if not _is(path, descriptor):
            return False  # somebody else is at it
        with scratch_folder(root) as scratch:
            (root / entry.key).replace(scratch / entry.key)
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def trim(*roots: Path, most_bytes: int | None = None, oldest: float | None = None) -> Trimmed:
    """Remove entries, the one that was not used for longest first.

    Args:
        most_bytes: until no more than this is left; None sets no limit.
        oldest: and all that were not used since then (seconds since 1970).

    Raises:
        OSError: the file system refuses.
    """
    entries = stored(*roots)
    left = sum(entry.size_bytes for entry in entries)
    removed = removed_bytes = in_use = 0
    for entry in entries:
        if not ((most_bytes is not None and left > most_bytes) or (oldest is not None and entry.used < oldest)):
            continue
        if remove(entry):
            removed, removed_bytes, left = removed + 1, removed_bytes + entry.size_bytes, left - entry.size_bytes
        else:
            in_use += 1
    return Trimmed(removed, removed_bytes, left, in_use)


def _keys(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return [entry.name for entry in entries if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _stored(root: Path, key: str) -> Stored:
    size, times = 0, [0.0]
    for status in _statuses(root / key):
        size += status.st_size
        times.append(status.st_mtime)
    with suppress(OSError):
        times.append((root / _IN_USE / key).stat().st_mtime)
    return Stored(root, key, size, max(times))


def _statuses(folder: Path) -> Iterable[os.stat_result]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a run that writes there renames its files
                yield os.lstat(Path(parent) / name)


def _lock_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False
