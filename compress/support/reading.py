"""The one door through which files that a user names are opened: regular ones, of a bounded size where one is said.

A name may come from a stranger and lead anywhere: to a FIFO (opening it waits for ever), a device (reading it never
ends), a folder, a loop of links, or be none at all (NUL, too long, not to be encoded). Each is an `OSError` with a
`strerror` here, so that whoever opens a file has one kind of failure to tell of.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

__all__ = ["LARGEST_DOCUMENT", "absolute", "home_expanded", "is_file", "is_folder", "open_regular", "read_bytes"]
__all__ += ["read_text", "unreadable"]

T = TypeVar("T")

LARGEST_DOCUMENT = 64 << 20
"""Bytes of a report, manifest, profile or table; the largest report so far, of 400 layers, has 2 MiB."""

_KINDS = {
    stat.S_IFIFO: "it is a FIFO",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
    stat.S_IFSOCK: "it is a socket",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, to be read.

    Raises:
        OSError: there is none, it may not be read, or it is something else; `strerror` says which.
    """
    # O_NONBLOCK: a FIFO without a writer would be waited for; regular files do not know it. O_NOCTTY: no terminal here
    descriptor = _named(path, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(mode), 'it is something else')}, no file", str(path))
    return os.fdopen(descriptor, "rb")


def unreadable(path: Path) -> str | None:
    """Say why `open_regular` refuses a file, as a clause (`it is a FIFO, no file`); None if it does not."""
    try:
        open_regular(path).close()
    except FileNotFoundError:
        return "it does not exist"
    except OSError as error:
        return error.strerror or str(error)
    return None


def read_bytes(path: Path, limit: int = LARGEST_DOCUMENT) -> bytes:
    """A regular file of at most `limit` bytes.

    Raises:
        OSError: as `open_regular`, or it is larger.
    """
    with open_regular(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {_size(limit)}", str(path))
    return content


def read_text(path: Path, limit: int = LARGEST_DOCUMENT, encoding: str = "utf-8-sig") -> str:
    """A regular file of at most `limit` bytes as text; the default encoding is UTF-8 with or without a byte order mark.

    Raises:
        OSError: as `read_bytes`, or it is no text.
    """
    try:
        return read_bytes(path, limit).decode(encoding)
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, f"it is not UTF-8 text (byte {error.start})", str(path)) from error


def is_file(path: Path) -> bool:
    """Tell whether a regular file, or a link to one, is there; False also for what cannot be a name."""
    return _is(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Tell whether a folder, or a link to one, is there; False also for what cannot be a name."""
    return _is(path, stat.S_ISDIR)


def home_expanded(path: Path) -> Path:
    """The path with `~` or `~user` replaced.

    Raises:
        OSError: the home folder is not known (no HOME, and nothing in the list of users).
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "the home folder of ~ is not known: set HOME", str(path)) from error


def absolute(path: Path) -> Path:
    """The path without links and relative parts, as far as it exists.

    Raises:
        OSError: a loop of links, no name, or the working folder was deleted.
    """
    try:
        return _named(path, path.resolve)
    except RuntimeError as error:  # before Python 3.13, a loop
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(_named(path, path.stat).st_mode)
    except OSError:
        return False


def _named(path: Path, ask: Callable[[], T]) -> T:
    """Return what `ask` gives; what Python itself says to a name that is none becomes an `OSError` too."""
    try:
        return ask()
    except UnicodeEncodeError as error:
        raise OSError(errno.EINVAL, "its name has characters that no file name can have", str(path)) from error
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name has a NUL character", str(path)) from error


def _size(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
