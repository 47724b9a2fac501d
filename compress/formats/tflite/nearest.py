"""Nearest upsampling as PyTorch does it.

Output row `i` shows input row `floor(i / scale)`: RESIZE_NEAREST_NEIGHBOR without half-pixel centres, which is
version 2. The converter sets half-pixel centres (which is PyTorch's `nearest-exact`, and up to half a row off).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from compress.core.errors import StageError
from compress.formats.tflite.edit import kind_of
from compress.formats.tflite.flatbuffer import ModelEntry
from compress.formats.tflite.specialize import shape_before_export
from compress.graph.capture import call_nodes, layer_name

__all__ = ["check_nearest", "correct_nearest"]

aten = torch.ops.aten


def check_nearest(graph: fx.GraphModule) -> None:
    """Refuse sizes at which the runtime, which knows input and output size and no factor, picks other rows.

    Raises:
        StageError: names the layer.
    """
    for node in call_nodes(graph):
        if node.target in (aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            sizes = zip(shape_before_export(source)[2:], shape_before_export(node)[2:], _factors(node), strict=True)
            for before, after, factor in sizes:
                if not np.array_equal(_rows(before, after, before / after), _rows(before, after, 1 / factor)):
                    raise StageError(
                        f"{layer_name(node)} enlarges {before} to {after} rows or columns by the factor {factor:g}; "
                        f"LiteRT goes by the sizes alone and would show others",
                        fix=f"F.interpolate(..., size=...) or recompute_scale_factor=True in {layer_name(node)}",
                    )


def correct_nearest(model: ModelEntry) -> None:
    """Clear the half-pixel centres of what the converter wrote, in place: it has no `nearest-exact`."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            if kind_of(model, operator) == "RESIZE_NEAREST_NEIGHBOR":
                operator.builtinOptions.halfPixelCenters = False  # type: ignore[attr-defined]


def _factors(node: fx.Node) -> list[float]:
    """Vertical and horizontal; the quotient of the sizes where none was given."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    sizes = zip(shape_before_export(node)[2:], shape_before_export(source)[2:], strict=True)
    quotients = [after / before for after, before in sizes]
    factors = node.args[2:] if node.target is aten.upsample_nearest2d.default else [*_list(node.args[2:3])]
    return [float(str(value)) if value is not None else quotients[i] for i, value in enumerate(factors)] or quotients


def _list(values: tuple[object, ...]) -> list[object]:
    (first,) = values or (None,)
    return list(first) if isinstance(first, (list, tuple)) else []


def _rows(before: int, after: int, step: float) -> NDArray[np.int64]:
    """Input row of each output row, in float32 as both runtimes compute it."""
    rows = np.floor(np.arange(after, dtype=np.float32) * np.float32(step)).astype(np.int64)
    limited: NDArray[np.int64] = np.minimum(rows, before - 1)
    return limited
