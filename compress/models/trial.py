"""The first run of a stranger's graph: in a copy of this process, with limits, before this process reads the file.

A graph may loop for ever, make a tensor of any size from a file of a kilobyte, or be nested so deep that the parser
ends the interpreter. No list of operators says which: whether it ends, and what it takes, is seen by running it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from compress.core.artifact import InputSpec
from compress.core.errors import CompressError, ModelError, StageError
from compress.formats.registry import by_suffix
from compress.models.configs import FileLimits
from compress.support.forked import Failure, Limits, tried
from compress.support.reading import open_regular, unreadable

__all__ = ["try_graph", "try_work"]

_PER_FILE_BYTE = 8
"""Bytes of memory for each byte of a file, besides the limit: it is read, parsed, checked and given to a runtime, and
each of them may keep a copy or two of the weights for a while."""


def try_graph(path: Path, input: InputSpec, limits: FileLimits | None) -> None:
    """Load an `.onnx`, `.pt2` or TorchScript file and run it on one image, for its failure alone.

    Args:
        limits: as the user gave them; None takes those that hold where there is no option for them.

    Raises:
        ModelError: it does not load, fails on the image, or takes more time or memory than `limits`, or ends the
            process.
    """
    try_work(path, _loading(path, input, (limits or FileLimits()).memory_bytes), limits)


def try_work(path: Path, work: Callable[[], object], limits: FileLimits | None) -> None:
    """The same for other work with a file."""
    taken = limits or FileLimits()
    if (reason := unreadable(path)) is not None:
        raise ModelError(f"model file {path} cannot be read: {reason}", fix="model.path=<file>")
    try:
        memory = taken.memory_bytes + _PER_FILE_BYTE * path.stat().st_size
        failure = tried(work, Limits(taken.time_limit, memory))
    except OSError as error:
        raise ModelError(f"model file {path} cannot be tried: {error.strerror}", fix="name a model file") from error
    if failure is not None:
        raise _explained(failure, path, taken, can_be_raised=limits is not None)


def _loading(path: Path, input: InputSpec, most_bytes: int) -> Callable[[], object]:
    """Return what is to be done; everything that it takes is imported here, once and for all."""
    support = by_suffix(path)
    if support is not None and support.is_source:
        return support.trial(path, input, most_bytes)
    from compress.models.graph_files import run_once as run_module_once

    _import_reader(path)
    return lambda: run_module_once(path, input)


def _import_reader(path: Path) -> None:
    """The module that will read the file, as far as the names in it say; a wrong guess costs time, no more."""
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception:  # a damaged archive raises anything; what is wrong is told by the reader itself
        return
    if "archive_format" in names:
        import compress.models.exported
    elif "constants.pkl" in names:
        import compress.models.torchscript  # noqa: F401


def _explained(failure: Failure, path: Path, limits: FileLimits, *, can_be_raised: bool) -> CompressError:
    if failure.kind == "error":
        kind = ModelError if failure.exit_code == ModelError.exit_code else StageError
        return kind(failure.detail, fix=failure.fix)
    if failure.kind == "crash":
        return ModelError(
            f"model file {path} ends the process that runs it ({failure.detail}): it is damaged, or nested too deep",
            fix="export it again",
        )
    if failure.kind == "time":
        problem = f"does not end its first run within {limits.time_limit} s of processor time"
        fix, option = "check that the model has no endless loop", "model.time_limit=<seconds>"
    else:
        problem = f"takes more than {limits.memory_limit:g} GiB of memory for its first run"
        fix, option = "check the sizes in the model", "model.memory_limit=<GiB>"
    return ModelError(f"model file {path} {problem}", fix=f"{fix}, or raise {option}" if can_be_raised else fix)
