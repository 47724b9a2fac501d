"""Read an ONNX file that a user named."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from compress.core.errors import ConfigError

__all__ = ["read_graph"]


def read_graph(path: Path, *, weights: bool = False) -> onnx.ModelProto:
    """The graph of a file, without the weights that lie beside it unless asked for.

    Raises:
        ConfigError: missing, or not an ONNX file.
    """
    try:
        model = onnx.load(path, load_external_data=weights)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist", fix="name an .onnx file or a run folder") from error
    except (DecodeError, ValueError, OSError) as error:
        raise ConfigError(f"{path} is not an ONNX file, or is truncated", fix="export it again") from error
    if not model.graph.node:  # an empty file parses as an empty message
        raise ConfigError(f"{path} is not an ONNX file: it has no graph", fix="export it again")
    return model
