"""`python -m compress.cache [OUTPUT]`: list, verify and prune the stages and models that an output folder keeps."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import ConfigError, StageError, one_line
from compress.support.arguments import ArgumentParser
from compress.support.command import run_command
from compress.support.files import sha256_file
from compress.support.reading import is_folder
from compress.support.scratch import unfinished

if TYPE_CHECKING:
    from compress.pipeline.store_size import Stored

__all__ = ["main"]

_MODELS = "models"
"""Where models are that came in several files, in one file each (`compress.pipeline.run`)."""

_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_BYTES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 1024 ** (power + 1) for power, letter in enumerate("KMGT")
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 1 an entry is damaged or cannot be removed, 2 wrong request, 130 interrupted."""
    typed = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _carry_out(_parser().parse_args(typed)))


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser("python -m compress.cache", __doc__)
    parser.add_argument("output", nargs="?", type=Path, help="output folder of the runs; default outputs")
    parser.add_argument(
        "--verify", action="store_true", help="compare every file with its checksum; exit 1 if one differs"
    )
    parser.add_argument("--older-than", metavar="AGE", help="remove what was not used for so long: 45m, 12h, 30d, 4w")
    parser.add_argument(
        "--larger-than", metavar="SIZE", help="remove until no more is left, oldest first: 500MB, 5GB, 2GiB"
    )
    return parser


def _carry_out(options: argparse.Namespace) -> int:
    from compress.pipeline.store_size import stored, trim

    output: Path = options.output or _default_output()
    roots = [output / ".cache" / name for name in ("stages", _MODELS)]
    if not is_folder(output):
        raise ConfigError(f"{output} is not a folder", fix="name the output folder of the runs")
    oldest = None if options.older_than is None else time.time() - _age(options.older_than)
    most = None if options.larger_than is None else _size(options.larger_than)
    try:
        if oldest is not None or most is not None:
            done = trim(*roots, most_bytes=most, oldest=oldest)
            busy = f"; {done.in_use} stay, a run uses them" if done.in_use else ""
            print(f"removed {done.removed} entries, {_shown(done.removed_bytes)}{busy}")
        entries = stored(*roots)
    except OSError as error:
        raise StageError(f"{output / '.cache'}: {error.strerror or error}") from error
    damaged = sum([_listed(entry, options.verify) for entry in entries])
    total = _shown(sum(entry.size_bytes for entry in entries))
    print(one_line(f"{len(entries)} entries, {total} in {output / '.cache'}"))
    if damaged:
        raise StageError(f"{damaged} of {len(entries)} entries are damaged", fix="run again: it makes them anew")
    return 0


def _listed(entry: Stored, verify: bool) -> bool:
    """Print a line for an entry; whether it is damaged, if that was to be found out."""
    described, whole = (_model, _model_whole) if entry.root.name == _MODELS else (_stage, _stage_whole)
    damaged = verify and not whole(entry)
    when = datetime.fromtimestamp(entry.used).astimezone().strftime("%Y-%m-%d %H:%M")
    size, mark = _shown(entry.size_bytes), "  DAMAGED" if damaged else ""
    print(one_line(f"{entry.key[:16]:<16}  {size:>10}  {when}  {described(entry)}{mark}"))
    return damaged


def _stage(entry: Stored) -> str:
    from compress.pipeline.store import StageStore

    return StageStore.described(entry.root, entry.key)


def _stage_whole(entry: Stored) -> bool:
    from compress.pipeline.store import StageStore

    return StageStore.whole(entry.root, entry.key)


def _model(entry: Stored) -> str:
    """The file, whose folder is called after its content."""
    return f"model in one file, {', '.join(sorted(path.name for path in _files(entry))) or 'unfinished'}"


def _model_whole(entry: Stored) -> bool:
    try:
        return all(sha256_file(path) == entry.key for path in _files(entry))
    except OSError:
        return False


def _files(entry: Stored) -> list[Path]:
    return [path for path in (entry.root / entry.key).iterdir() if not unfinished(Path(path.name))]


def _default_output() -> Path:
    from compress.support.plain_yaml import read_yaml
    from compress.support.resources import conf_folder

    config = read_yaml(conf_folder() / "config.yaml")
    assert isinstance(config, dict)  # our own file
    return Path(str(config["output"]))


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([mhdw])", text)
    if match is None:
        raise ConfigError(f"--older-than {text[:40]!r} is no age", fix="a number and m, h, d or w: 30d")
    return float(match[1]) * _SECONDS[match[2]]


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]i?B|)", text)
    if match is None:
        raise ConfigError(
            f"--larger-than {text[:40]!r} is no size", fix="a number and KB, MB, GB, TB, KiB, MiB, ...: 5GB"
        )
    return int(float(match[1]) * _BYTES[match[2]])


def _shown(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())
