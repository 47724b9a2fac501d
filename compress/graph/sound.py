"""Weights that no training leaves behind: a damaged file or a failed training, refused before any work starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from compress.core.errors import ModelError
from compress.graph.weights import named_tensors

__all__ = ["refuse_unsound", "refuse_unsound_graph"]


_FIX = "copy the file again, or take a checkpoint from before the values broke"
_COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SCALED = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SCALE = 1
_SHAPELESS = (UninitializedParameter, UninitializedBuffer)
_VARIANCE = 4
"""Position among the inputs of ONNX's BatchNormalization."""
_REAL = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
)


def refuse_unsound(module: nn.Module, origin: str = "") -> None:
    """Raise `ModelError` for NaN in any tensor, an infinite parameter, or a variance that is negative or infinite.

    Other tensors may be infinite: attention masks are.

    Args:
        origin: the file that messages name.
    """
    for name, tensor in _tensors(module):
        if isinstance(tensor, _SHAPELESS) or tensor.layout is not torch.strided:
            fault = "no shape yet" if isinstance(tensor, _SHAPELESS) else "no dense values"
            raise ModelError(f"{_named(name, origin)} has {fault}", fix="build the network with ordinary tensors")
        if tensor.is_floating_point() and not tensor.is_meta:
            variance = name.rpartition(".")[2] == "running_var"
            values = tensor.detach().float().cpu().numpy()
            finite = variance or isinstance(tensor, nn.Parameter)
            _refuse(_named(name, origin), values, finite=finite, positive=variance)


def refuse_unsound_graph(graph: onnx.GraphProto, origin: str = "") -> None:
    """The same for the constants of an ONNX graph: what layers multiply by must be finite too."""
    nodes = list(_nodes(graph))
    weights = {name for node in nodes if node.op_type in _COMPUTE for name in node.input}
    weights |= {node.input[_SCALE] for node in nodes if node.op_type in _SCALED and len(node.input) > _SCALE}
    norms = [node for node in nodes if node.op_type == "BatchNormalization"]
    variances = {node.input[_VARIANCE] for node in norms if len(node.input) > _VARIANCE}
    for name, tensor in _constants([graph]):
        if tensor.data_type in _REAL:
            try:
                values = np.asarray(onnx.numpy_helper.to_array(tensor), np.float32)
            except (ValueError, TypeError) as error:
                raise ModelError(f"{_named(name, origin)} is damaged: {error}", fix="copy the file again") from error
            variance = name in variances
            _refuse(_named(name, origin), values, finite=variance or name in weights, positive=variance)


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers, and tensors that are plain attributes."""
    yield from named_tensors(module).items()
    for path, child in module.named_modules():
        yield from ((f"{path}.{name}", value) for name, value in vars(child).items() if isinstance(value, torch.Tensor))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from _nodes(inner)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else attribute.graphs)


def _constants(graphs: Iterable[onnx.GraphProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and constants, also of the graphs inside nodes."""
    for graph in graphs:
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
        yield from ((tensor.values.name, tensor.values) for tensor in graph.sparse_initializer)
        for node in graph.node:
            if node.op_type == "Constant":
                yield from ((node.output[0], value.t) for value in node.attribute if value.HasField("t"))
            yield from _constants(_subgraphs(node))


def _named(name: str, origin: str) -> str:
    return f"{origin}: the model's tensor {name}" if origin else f"the model's tensor {name}"


def _refuse(named: str, values: NDArray[np.floating], *, finite: bool, positive: bool) -> None:
    faults = {"values that are not numbers (NaN)": np.isnan(values)}
    if finite:
        faults["infinite values"] = np.isinf(values)
    if positive:
        faults["negative variances"] = values < 0
    for fault, where in faults.items():
        if where.any():
            raise ModelError(f"{named} holds {int(where.sum())} {fault}, of {values.size}", fix=_FIX)
