"""A `.tar.gz` that depends on nothing but the files' names and content."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

from compress.core.errors import StageError
from compress.support.files import atomic_path
from compress.support.reading import open_regular

__all__ = ["pack"]

_LEVEL = 6


def pack(folder: Path, archive: Path) -> None:
    """Write every file of `folder` below its name, sorted, with owner, times and permissions fixed.

    The same files give the same bytes: times are 0 (the epoch), owner is root, and scripts are executable.

    Raises:
        StageError: the archive cannot be written, or something in the folder is a link or no file.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    other = next((path for path in paths if path.is_symlink() or not path.is_file()), None)
    if other is not None:
        kind = "a link" if other.is_symlink() else "no file"
        raise StageError(f"{other} is {kind}: an archive has plain files only")
    with (
        atomic_path(archive) as temporary,
        temporary.open("wb") as stream,
        gzip.GzipFile("", "wb", _LEVEL, stream, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in paths:
            entry = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
            entry.size = path.stat().st_size
            entry.mode = 0o755 if path.suffix in (".py", ".sh") else 0o644
            with open_regular(path) as content:
                tar.addfile(entry, content)
