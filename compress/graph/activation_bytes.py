"""Bytes that one image takes on its way through a network: they decide how many go through at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.support.torch_internals import OpOverload, TorchDispatchMode, tensors_in

__all__ = ["widest_node", "widest_operator"]

_FLOAT_BYTES = 4


def widest_operator(module: nn.Module, input: InputSpec) -> int | None:
    """Bytes that the widest operator reads and writes of one image, weights excluded; None where it cannot be seen."""
    watch = _Widest({tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())})
    try:
        with torch.inference_mode(), watch:
            module(torch.zeros(1, *input.shape))
    except Exception:  # a scripted module, or whatever the user's forward raises under PyTorch's dispatch mode
        return None
    return watch.largest or None


class _Widest(TorchDispatchMode):
    """Notes the most that one operator reads and writes, constants excluded."""

    def __init__(self, constants: set[int]) -> None:
        super().__init__()
        self._constants = constants
        self.largest = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        values = {tensor.data_ptr(): tensor for tensor in tensors_in((args, result))}
        sizes = (value.nbytes for address, value in values.items() if address not in self._constants)
        self.largest = max(self.largest, sum(sizes))
        return result


def widest_node(model: onnx.ModelProto) -> int | None:
    """The same for an ONNX graph, by its shapes at a batch of one, every value as float32; None where none is known."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # too large for protobuf, or the shapes do not fit
        return None
    sizes = {value.name: _bytes(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    widest = (sum(sizes.get(name, 0) for name in {*node.input, *node.output} - constants) for node in graph.node)
    return max(widest, default=0) or None


def _bytes(value: onnx.ValueInfoProto) -> int:
    """Count the bytes of one image: a size that is free, the batch's, counts as one."""
    sizes = [max(int(dim.dim_value), 1) for dim in value.type.tensor_type.shape.dim]
    return _FLOAT_BYTES * math.prod(sizes)
