"""Check that the interpreter takes a file at all: the converter also writes operators that LiteRT has no kernel for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.formats.tflite.refusals import not_loadable
from compress.support.quiet import quiet_native

if TYPE_CHECKING:
    from torch import fx

__all__ = ["require_loadable"]


def require_loadable(content: bytes, graph: fx.GraphModule) -> None:
    """Prepare every kernel of the file, without running one.

    Args:
        content: the whole file.
        graph: the captured graph that it was made from.

    Raises:
        StageError: an operator has no kernel, or none for the numbers it has; names the layer.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        with quiet_native():
            Interpreter(model_content=content).allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise not_loadable(error, graph) from error
