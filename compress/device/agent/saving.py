"""The file of results: writable before anything is measured, whole at any time, and kept by `--resume`."""

import argparse
import errno
import json
import os
from typing import Callable, List, Optional, Set, Tuple

from .files import read_plain
from .json_text import LARGEST_BYTES, parse_json
from .machine import boot
from .values import Json, Problem


def require_writable(path: Optional[str]) -> None:
    """Find out now, and not after minutes of measuring, that a result cannot be written."""
    if not path:
        return
    temporary = path + ".part"
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        with open(temporary, "w"):
            pass
        os.unlink(temporary)
    except (OSError, IOError) as error:
        raise Problem("--json %s cannot be written: %s" % (path, error.strerror), "name a file in a folder of yours", 2)


def write_file(path: str, content: bytes) -> None:
    """Write a file whole or not at all."""
    with open(path + ".part", "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".part", path)


def saver(path: Optional[str]) -> Callable[[Json], None]:
    """A function that writes the report to `path`, whole or not at all; nothing without a path."""

    def save(report: Json) -> None:
        if not path:
            return
        temporary = path + ".part"
        with open(temporary, "w") as stream:
            json.dump(report, stream, indent=1, allow_nan=False)
        os.rename(temporary, path)

    return save


def settings(options: argparse.Namespace) -> Json:
    """Settings that an earlier result must have been measured with to be kept."""
    return {"batch": options.batch, "seconds": options.seconds}


def resumable(options: argparse.Namespace, digest: str) -> Tuple[List[Json], bool]:
    """Figures of a run of the same bundle since the same boot, and whether that run went to its end."""
    if not options.resume:
        return [], False
    try:
        earlier = parse_json(read_plain(options.json, LARGEST_BYTES))
        same = (earlier["manifest_sha256"], earlier["boot"], earlier["settings"]) == (
            digest,
            boot(),
            settings(options),
        )
        kept = [result for result in earlier["results"] if not result["problem"]] if same else []
        done(kept)  # fails here, and not later, where the file is something else
        return kept, bool(same and earlier["finished"])
    except (OSError, IOError, ValueError, KeyError, TypeError):
        return [], False


def done(results: List[Json]) -> Set[Tuple[str, int]]:
    """Models and thread counts that have figures."""
    return set((result["stage"], result["threads"]) for result in results)
