"""`multirun.json`: which runs one command made, and which combinations failed.

It lies in `<output>/multirun/<time>/`; runs are named relative to `<output>`, so that the whole folder can be moved.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from compress.core.errors import ConfigError, StageError
from compress.core.quantities import Few
from compress.support.files import assemble, inside, write_in_order
from compress.support.reading import read_bytes
from compress.support.serialize import from_json, to_json

__all__ = ["MULTIRUN", "Failure", "Multirun", "read_multirun", "save_multirun"]

MULTIRUN = "multirun.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Failure:
    """A combination that gave no run: what was asked, and the error."""

    overrides: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class Multirun:
    """One command with `-m`; `runs` are folders below the output folder."""

    created: str
    runs: Few[str]
    failures: Few[Failure]
    schema_version: int = SCHEMA_VERSION


def save_multirun(
    runs: Sequence[Path],
    failures: Sequence[Failure],
    pages: Mapping[str, bytes] | None = None,
    *,
    earlier: Path | None = None,
) -> Path:
    """Write the record of the finished `runs` (`<output>/<target>/<time>`, at least one) and return its folder.

    Args:
        pages: files to go with it, by name.
        earlier: folder of the same command's record after fewer runs, which this one replaces.

    Raises:
        StageError: the file system refuses.
    """
    now = datetime.now().astimezone()
    root = Path(os.path.commonpath([run.parent.parent for run in runs]))
    names = tuple(run.relative_to(root).as_posix() for run in runs)
    record = Multirun(now.isoformat(timespec="seconds"), names, tuple(failures))
    contents = [(MULTIRUN, to_json(record)), *(pages or {}).items()]
    if earlier is not None and earlier.parent.parent == root:
        write_in_order(earlier, contents)
        return earlier
    name = now.strftime("%Y-%m-%d_%H-%M-%S")
    folder = assemble(root / "multirun", name, lambda folder: write_in_order(folder, contents))
    if earlier is not None:  # the last run lies elsewhere, and so does the folder that holds them all
        shutil.rmtree(earlier, ignore_errors=True)
    return folder


def read_multirun(folder: Path) -> tuple[Multirun, tuple[Path, ...]]:
    """The record in `folder`, and the run folders it names.

    Raises:
        ConfigError: it is damaged, of another schema, or names a folder outside the output folder.
    """
    path = folder / MULTIRUN
    try:
        record = from_json(Multirun, read_bytes(path))
        if record.schema_version != SCHEMA_VERSION:
            raise StageError(f"schema version {record.schema_version}, this program reads {SCHEMA_VERSION}")
        root = folder.resolve().parent.parent
        return record, tuple(inside(root, name) for name in dict.fromkeys(record.runs))
    except (OSError, StageError) as error:
        reason = error.problem if isinstance(error, StageError) else error.strerror
        raise ConfigError(f"{path}: {reason}", fix="name the run folders instead") from error
