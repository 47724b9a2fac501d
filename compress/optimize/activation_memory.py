"""Peak memory of a graph's intermediate values, by their lifetimes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx
from onnx import helper

from compress.measure.unmeasured import NotMeasured

__all__ = ["peak_activation_bytes"]


def peak_activation_bytes(model: onnx.ModelProto) -> int:
    """The most bytes that live at once while the nodes run one after another in the file's order, for a batch of one.

    A value lives from the node that makes it to the last that reads it (linear scan, Poletto and Sarkar 1999); inputs
    live from the start, outputs to the end. Weights are not counted, nor are kernels' scratch buffers and alignment. A
    runtime that reuses an input's buffer for the output of an element-wise node needs less.

    Args:
        model: with the shapes of inner values (`graph.value_info`).

    Raises:
        NotMeasured: a shape depends on more than the batch, or the graph branches or loops.
    """
    nodes = model.graph.node
    for node in nodes:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise NotMeasured(f"the values inside {node.op_type} nodes live as long as its data says")
    sizes = _sizes(model.graph)
    born, dies = _lifetimes(model.graph)
    alive = [0] * len(nodes)
    for name, start in born.items():
        size = _size(name, sizes)
        for step in range(start, dies.get(name, start) + 1):
            alive[step] += size
    return max(alive, default=0)


def _lifetimes(graph: onnx.GraphProto) -> tuple[dict[str, int], dict[str, int]]:
    """First and last step of every value that is not a constant, by name."""
    stored = {tensor.name for tensor in graph.initializer}
    born = {value.name: 0 for value in graph.input if value.name not in stored}
    dies: dict[str, int] = {}
    for step, node in enumerate(graph.node):
        if node.op_type != "Constant":
            born.update((name, step) for name in node.output if name)
        dies.update((name, step) for name in node.input)
    dies.update((value.name, len(graph.node) - 1) for value in graph.output)
    return born, dies


def _sizes(graph: onnx.GraphProto) -> dict[str, int]:
    """Bytes by value, where the shape is known but for the batch, which is the first dimension and counts as one."""
    values: Iterable[onnx.ValueInfoProto] = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: size for value in values if (size := _bytes(value.type.tensor_type)) is not None}


def _bytes(tensor: onnx.TypeProto.Tensor) -> int | None:
    if not tensor.HasField("shape"):
        return None
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if None in dims[1:]:
        return None
    count = math.prod(dim for dim in dims if dim is not None)
    return int(count * helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize)


def _size(name: str, sizes: Mapping[str, int]) -> int:
    if name not in sizes:
        raise NotMeasured(f"the shape of {name!r} depends on more than the batch")
    return sizes[name]
