"""Files of a bundle: plain ones inside its folder, each compared with its SHA-256 before anything is loaded."""

import errno
import hashlib
import os
import stat
from typing import IO, Optional

from .values import Json, Problem

AGAIN = "copy the bundle again"
CHUNK = 1 << 20


def open_plain(path: str) -> IO[bytes]:
    """A regular file, for reading; nothing that a FIFO, a device or a socket could make us wait for.

    Raises:
        OSError: there is none, or it is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except UnicodeEncodeError:  # Python 3.6 where the locale has ASCII only
        raise OSError(errno.EINVAL, "the system cannot write this name", path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return os.fdopen(descriptor, "rb")


def read_plain(path: str, most: int) -> bytes:
    """The content of a regular file, one byte more than `most` where it has more.

    Raises:
        OSError: as `open_plain`.
    """
    with open_plain(path) as stream:
        return stream.read(most + 1)


def sha256_file(path: str) -> str:
    """Raises OSError as `open_plain`."""
    digest = hashlib.sha256()
    with open_plain(path) as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def require_inside(folder: str, name: str) -> None:
    """Refuse a path that is absolute, climbs out of `folder`, or leaves it through a link."""
    parts = name.replace("\\", "/").split("/")
    root = os.path.realpath(folder)
    try:
        inside = os.path.realpath(os.path.join(root, *parts)).startswith(root + os.sep)
    except (OSError, ValueError):  # too long, a loop of links, or characters that the system's locale lacks
        inside = False
    if not name or parts[0] == "" or ".." in parts or ":" in parts[0] or not inside:
        raise Problem("the manifest names %r, which leaves the bundle" % (name,), AGAIN, 2)


def link_in(folder: str, name: str) -> Optional[str]:
    """The first part of a path below `folder` that is a link; None if none is."""
    path = folder
    for part in name.replace("\\", "/").split("/"):
        path = os.path.join(path, part)
        if os.path.islink(path):
            return os.path.relpath(path, folder)
    return None


def require_no_link(folder: str, name: str) -> None:
    link = link_in(folder, name)
    if link is not None:
        raise Problem("%s is a link: a bundle has plain files only" % link, AGAIN, 2)


def verify(folder: str, manifest: Json) -> None:
    """Compare the SHA-256 of every file in the manifest; `Problem` names the first that differs or is no plain file."""
    for entry in manifest["files"]:
        require_no_link(folder, entry["path"])
        try:
            digest = sha256_file(os.path.join(folder, entry["path"]))
        except (OSError, IOError) as error:
            raise Problem("%s: %s" % (entry["path"], error.strerror), AGAIN, 2)
        if digest != entry["sha256"]:
            raise Problem(
                "%s is not the file the manifest names (its SHA-256 differs): nothing was loaded" % entry["path"],
                AGAIN,
                2,
            )
