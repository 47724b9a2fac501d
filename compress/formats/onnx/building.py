"""Small helpers for building and reading ONNX graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["NoOlderForm", "attribute_int", "constant", "constant_ints", "integers", "operator", "rank_of", "scalar"]


class NoOlderForm(Exception):
    """A node's meaning cannot be written in the wanted opset; the message says what about it is newer."""


def operator(
    op_type: str, *inputs: ir.Value | None, dtype: ir.DataType | None = None, attributes: Sequence[ir.Attr] = ()
) -> ir.Value:
    """The only output of a new node that is in no graph yet; `dtype` defaults to that of the first input."""
    node = ir.Node("", op_type, inputs, attributes, num_outputs=1)
    first = inputs[0].dtype if inputs and inputs[0] is not None else None
    known = dtype or first
    node.outputs[0].type = ir.TensorType(known) if known is not None else None
    return node.outputs[0]


def constant(node: ir.Node, array: NDArray[np.generic], role: str) -> ir.Value:
    """A new initializer beside `node`, named after it and `role`."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    name = f"{node.name}_{role}"
    while name in graph.initializers:
        name += "_"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value


def integers(node: ir.Node, numbers: Sequence[int], role: str) -> ir.Value:
    """A new int64 initializer `[len(numbers)]`."""
    return constant(node, np.asarray(numbers, dtype=np.int64), role)


def scalar(node: ir.Node, number: float, dtype: ir.DataType, role: str) -> ir.Value:
    """A new initializer of shape `[]`."""
    return constant(node, np.asarray(number, dtype=dtype.numpy()), role)


def attribute_int(node: ir.Node, name: str, default: int = 0) -> int:
    """An integer attribute or its default."""
    return node.attributes[name].as_int() if name in node.attributes else default


def constant_ints(value: ir.Value | None, role: str) -> list[int]:
    """The integers of a constant input.

    Raises:
        NoOlderForm: it is computed while the model runs.
    """
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None:
        raise NoOlderForm(f"its {role} are computed at run time, the older form needs them fixed")
    return [int(number) for number in np.ravel(tensor.numpy())]


def rank_of(node: ir.Node, index: int) -> int:
    """Number of dimensions of an input.

    Raises:
        NoOlderForm: it is not known.
    """
    value = node.inputs[index]
    if value is None or value.shape is None:
        raise NoOlderForm("the rank of its input is not known")
    return len(value.shape)
