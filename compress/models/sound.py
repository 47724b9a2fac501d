"""Weights that no training leaves behind: a damaged file or a failed training, refused before any work starts."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from compress.errors import ModelError
from compress.weights import named_tensors

__all__ = ["refuse_unsound", "refuse_unsound_graph"]


_FIX = "copy the file again, or take a checkpoint from before the values broke"
_COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_VARIANCE = 4
"""Position among the inputs of ONNX's BatchNormalization."""


def refuse_unsound(module: nn.Module) -> None:
    """Raise `ModelError` for NaN in any tensor, an infinite parameter, or a variance that is negative or infinite.

    Other tensors may be infinite: attention masks are.
    """
    for name, tensor in named_tensors(module).items():
        if tensor.is_floating_point() and not tensor.is_meta:
            variance = name.rpartition(".")[2] == "running_var"
            values = tensor.detach().float().cpu().numpy()
            _refuse(name, values, finite=variance or isinstance(tensor, nn.Parameter), positive=variance)


def refuse_unsound_graph(graph: onnx.GraphProto) -> None:
    """The same for the initializers of an ONNX graph: what layers multiply by must be finite too."""
    weights = {name for node in graph.node if node.op_type in _COMPUTE for name in node.input}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    variances = {node.input[_VARIANCE] for node in norms if len(node.input) > _VARIANCE}
    for tensor in graph.initializer:
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
            values = onnx.numpy_helper.to_array(tensor)
            variance = tensor.name in variances
            _refuse(tensor.name, values, finite=variance or tensor.name in weights, positive=variance)


def _refuse(name: str, values: NDArray[np.floating], *, finite: bool, positive: bool) -> None:
    faults = {"values that are not numbers (NaN)": np.isnan(values)}
    if finite:
        faults["infinite values"] = np.isinf(values)
    if positive:
        faults["negative variances"] = values < 0
    for what, where in faults.items():
        if where.any():
            raise ModelError(f"the model's tensor {name} holds {int(where.sum())} {what}, of {values.size}", fix=_FIX)
