"""Complete models saved by torch: told apart by what the archive holds, not by their suffix."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import ModelError
from compress.formats.torchscript.records import LARGEST
from compress.graph.probe import does_not_take
from compress.support.archives import UnsafeArchive, checked_members
from compress.support.quiet import quiet
from compress.support.reading import unreadable

__all__ = ["load_graph_file", "run_once"]


def load_graph_file(path: Path, input: InputSpec) -> nn.Module:
    """Load a `.pt2` or TorchScript file.

    Raises:
        ModelError: missing, truncated, neither of the two, or it holds something this program does not run.
    """
    members = _members(path)
    if "archive_format" in members:
        from compress.models.exported import load_exported

        return load_exported(path)
    if "constants.pkl" in members and "data.pkl" in members:
        from compress.models.torchscript import load_torchscript

        return load_torchscript(path, input)
    if "data.pkl" in members:
        raise ModelError(
            f"model file {path} is a checkpoint, not a complete model",
            fix="model=factory model.factory=<package.module:function> model.checkpoint=<file>",
        )
    raise ModelError(f"model file {path} is neither .pt2, TorchScript nor .onnx", fix="save it with torch.export.save")


def run_once(path: Path, input: InputSpec) -> None:
    """Load a file and run it on a blank image, with one thread.

    Raises:
        ModelError: as `load_graph_file`, or it fails on the image.
    """
    torch.set_num_threads(1)
    module = load_graph_file(path, input)
    try:
        with quiet(), torch.inference_mode():
            module(torch.zeros(1, *input.shape))
    except Exception as error:  # operators raise what they like
        raise does_not_take(input, error) from error


def _members(path: Path) -> set[str]:
    """Names in the archive, as the reader that will load it sees them: Python's finds archives inside archives."""
    if (reason := unreadable(path)) is not None:
        raise ModelError(f"model file {path} cannot be read: {reason}", fix="model.path=<file>")
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"model file {path} has more than {LARGEST // 2**30} GiB", fix="use a smaller model")
        content = io.BytesIO(path.read_bytes())
        checked_members(content, LARGEST)
        content.seek(0)
        return set(torch._C.PyTorchFileReader(content).get_all_records())
    except UnsafeArchive as error:
        raise ModelError(f"model file {path} is no .pt2, TorchScript or .onnx: {error}", fix="save it again") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"model file {path} is truncated or not .pt2, TorchScript or .onnx",
            fix="copy or download the file again, or save it with torch.export.save",
        ) from error
