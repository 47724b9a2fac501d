"""Folders for unfinished work: each belongs to one writer, and is removed when that writer is done or dead.

A scratch folder is named `.tmp-<kernel>-<random>` and its writer holds a lock (flock) on it, which the kernel lets go
of when the process ends, however it ends. Who next makes a scratch folder beside it removes those without an owner:
process numbers would not tell, as two containers that share a folder have the same ones. Locks are only asked about
where they are known to reach: on the kernel that the name says. Folders of other machines, and those on file systems
without locks (NFS knows none for folders), count as left behind when nothing in them changed for a day.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["locked", "remove_stale", "scratch_folder", "unfinished"]

_PREFIX = ".tmp-"
_NAME = re.compile(r"\.tmp-(?P<kernel>[0-9a-f]{8})-[0-9a-f]{16}")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STALE_SECONDS = 24 * 3600.0
"""Longer than anything here writes into one scratch folder: the longest are single files and finished run folders."""


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new, empty folder in `parent` (default: the system's folder for temporary files), removed afterwards.

    Raises:
        OSError: the file system refuses.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    remove_stale(parent)
    folder, descriptor = _claimed(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_stale(parent: Path) -> None:
    """Remove the scratch folders right in `parent` whose writers are gone; what cannot be removed stays."""
    with suppress(OSError), os.scandir(parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
        for name in names:
            with suppress(OSError):
                _remove_if_stale(parent / name)


def unfinished(path: Path) -> bool:
    """Tell whether a relative path leads through a scratch folder."""
    return any(part.startswith(_PREFIX) for part in path.parts)


@contextmanager
def locked(folder: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time into the block for this existing folder; all of them where there are no locks.

    Args:
        busy: called before another process is waited for.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = _open(folder.resolve())
    try:
        if _lock(descriptor, wait=False) is False:
            busy()
            _lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _claimed(parent: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock."""
    while True:
        folder = parent / f"{_PREFIX}{_kernel()}-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        try:
            descriptor = _open(folder)
        except FileNotFoundError:
            continue  # somebody took it for one left behind before it was locked
        if _lock(descriptor, wait=False) is not False and _is(folder, descriptor):
            return folder, descriptor
        os.close(descriptor)


def _remove_if_stale(path: Path) -> None:
    match = _NAME.fullmatch(path.name)
    if match is None or match["kernel"] != _kernel() or not stat.S_ISDIR(path.lstat().st_mode):
        _remove_if_old(path)
        return
    descriptor = _open(path)
    try:
        ours = _lock(descriptor, wait=False)
        if ours:  # nobody held it: its writer is dead. It stays locked until it is gone
            shutil.rmtree(path, ignore_errors=True)
        elif ours is None:
            _remove_if_old(path)
    finally:
        os.close(descriptor)


def _remove_if_old(path: Path) -> None:
    changed = path.lstat()
    times = [changed.st_mtime]
    if stat.S_ISDIR(changed.st_mode):
        with os.scandir(path) as entries:
            times += [entry.stat(follow_symlinks=False).st_mtime for entry in entries]
    if time.time() - max(times) < _STALE_SECONDS:
        return
    shutil.rmtree(path, ignore_errors=True) if stat.S_ISDIR(changed.st_mode) else path.unlink()


@functools.cache
def _kernel() -> str:
    """Digest of the running kernel, the same in all its containers; elsewhere than on Linux, of the machine's name."""
    try:
        text = _BOOT.read_text()
    except OSError:
        text = platform.node()
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Take the lock and tell whether it is ours now; None where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(folder: Path, descriptor: int) -> bool:
    """Tell whether the folder at this path is still the one that was opened."""
    with suppress(FileNotFoundError):
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    return False
