"""The first run of a stranger's graph: in a copy of this process, with limits, before this process reads the file.

A graph may loop for ever, make a tensor of any size from a file of a kilobyte, or be nested so deep that the parser
ends the interpreter. No list of operators says which: whether it ends, and what it takes, is seen by running it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from compress.errors import CompressError, ModelError
from compress.forked import Failure, Limits, tried
from compress.models.configs import FileLimits
from compress.reading import open_regular
from compress.types import InputSpec

__all__ = ["try_graph"]

_PER_FILE_BYTE = 8
"""Bytes of memory for each byte of a file, besides the limit: it is read, parsed, checked and given to a runtime, and
each of them may keep a copy or two of the weights for a while."""


def try_graph(path: Path, input: InputSpec, limits: FileLimits) -> None:
    """Load an `.onnx`, `.pt2` or TorchScript file and run it on one image, for its failure alone.

    Raises:
        ModelError: it does not load, fails on the image, or takes more time or memory than `limits`, or ends the
            process.
    """
    work = _loading(path, input)
    try:
        size = path.stat().st_size
        failure = tried(work, Limits(limits.time_limit, limits.memory_bytes + _PER_FILE_BYTE * size))
    except OSError as error:
        raise ModelError(f"model file {path} cannot be tried: {error.strerror}", fix="model.path=<file>") from error
    if failure is not None:
        raise _explained(failure, path, limits)


def _loading(path: Path, input: InputSpec) -> Callable[[], object]:
    """What is to be done; everything that it takes is imported here, once and for all."""
    if path.suffix.lower() == ".onnx":
        from compress.models.onnx_file import run_once

        return lambda: run_once(path, input)
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


def _explained(failure: Failure, path: Path, limits: FileLimits) -> CompressError:
    if failure.kind == "error":
        return ModelError(failure.detail, fix=failure.fix)
    if failure.kind == "time":
        return ModelError(
            f"model file {path} does not end its first run within {limits.time_limit} s of processor time",
            fix="check that the model has no endless loop, or raise model.time_limit=<seconds>",
        )
    if failure.kind == "memory":
        return ModelError(
            f"model file {path} takes more than {limits.memory_limit:g} GiB of memory for its first run",
            fix="check the sizes in the model, or raise model.memory_limit=<GiB>",
        )
    return ModelError(
        f"model file {path} ends the process that runs it ({failure.detail}): it is damaged, or nested too deep",
        fix="export it again",
    )
