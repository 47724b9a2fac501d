"""`python -m compress.profile FILE_OR_RUN`: where an inference call spends its time, and what each layer waits for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import one_line
from compress.support.arguments import ArgumentParser
from compress.support.command import run_command
from compress.support.reading import is_folder

if TYPE_CHECKING:
    from compress.core.target import Target
    from compress.profile.document import Profile
    from compress.profile.layer import Recording, Source

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 1 the runtime failed, 2 wrong request, 130 interrupted."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before anything imports onnxruntime
    typed = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _profile(_parser().parse_args(typed)))


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser("python -m compress.profile", __doc__)
    parser.add_argument("model", type=Path, metavar="FILE_OR_RUN", help="a model, a run folder, or a profile.json")
    parser.add_argument("--against", type=Path, metavar="OTHER", help="what to compare with, taken as the state before")
    parser.add_argument("--runtime", help="onnxruntime, torch or tensorrt; default: what the file is made for")
    parser.add_argument("--threads", type=_positive, default=1, help="of the runtime; default 1")
    parser.add_argument("--batch", type=_positive, help="samples a call; default: the model's own, or 1")
    parser.add_argument("--input", type=_shape, default=(3, 224, 224), metavar="C,H,W", help="image of a PyTorch file")
    parser.add_argument("--target", help="hold the layers against the published peaks of a device")
    parser.add_argument("--seconds", type=_seconds, default=4.0, help="longest time for one model; default 4")
    parser.add_argument("--top", type=_positive, default=15, help="layers to show; default 15")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write profile.json and trace.json there")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not a time")
    return value


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(_positive(part) for part in text.split(","))
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError("an image is C,H,W")
    return sizes


def _profile(options: argparse.Namespace) -> int:
    from compress.profile.diff import compare
    from compress.report.profile_tables import diff_view, profile_view
    from compress.report.terminal import console

    terminal = console()
    target = _target(options.target)
    before = None if options.against is None else _measured(options.against, options, target)[0]
    found, recording = _measured(options.model, options, target)
    terminal.print(profile_view(found, options.top))
    if before is not None:
        terminal.print(diff_view(before, found, compare(before, found), options.top))
    if options.output is not None:
        _write(options.output, found, recording)
    return 0


def _target(name: str | None) -> Target | None:
    from compress.config.schema import load_target

    return None if name is None else load_target(name, [])


def _measured(path: Path, options: argparse.Namespace, target: Target | None) -> tuple[Profile, Recording | None]:
    """The profile of a model, measured now; or a stored one, which has no recording."""
    from compress.profile.analyze import profile
    from compress.profile.document import read_profile
    from compress.profile.layer import Settings
    from compress.profile.readers import find_reader

    if path.suffix == ".json":
        return read_profile(path), None
    source = _source(path, options)
    reader = find_reader(source.format, options.runtime)
    settings = Settings(threads=options.threads, batch=options.batch, seconds=options.seconds)
    return profile(source, reader, settings, target)


def _source(path: Path, options: argparse.Namespace) -> Source:
    from compress.profile.sources import from_file, from_run

    if is_folder(path):
        source, stage = from_run(path)
        text = f"{path}: the file of stage {stage}, {source.title}; name another file to profile that"
        print(one_line(text), file=sys.stderr)
        return source
    return from_file(path, options.input)


def _write(folder: Path, found: Profile, recording: Recording | None) -> None:
    from compress.profile.trace import write_trace
    from compress.support.files import write_bytes
    from compress.support.serialize import to_json

    write_bytes(folder / "profile.json", to_json(found))
    if recording is not None:
        write_trace(folder / "trace.json", found, recording.spans)
        print(f"{folder}: profile.json, and trace.json for https://ui.perfetto.dev")


if __name__ == "__main__":
    sys.exit(main())
