"""A rearrangement before a matrix product is an order of the weight's columns.

`convolution -> flatten -> linear` (LeNet, AlexNet, VGG) flattens channels first, so that a channels-last file would
have to transpose the map before: with `y = W x` and `x[j] = map[index[j]]`, `W'[:, index[j]] = W[:, j]` takes the map
as it lies. Every number stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.formats.tflite.axis_atoms import Reshape, Step, Transpose
from compress.formats.tflite.edit import copied_tensor, drop_dead_operators, kind_of, makers_of, new_operator
from compress.formats.tflite.flatbuffer import (
    GraphEntry,
    ModelEntry,
    OperatorEntry,
    constant_of,
    new_constant,
    schema,
    shape_of,
    type_name,
)
from compress.formats.tflite.rearrange import chain_to, write_steps

__all__ = ["POINTWISE", "order_linear_weights"]

POINTWISE = frozenset({"RELU", "RELU6", "LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "QUANTIZE", "DEQUANTIZE"})
"""Operators with one input that treat every number alike, wherever it lies."""


_STORED = frozenset({"int8", "uint8", "float32", "float16"})


@dataclass(frozen=True)
class _Path:
    """Operators between the tensor `source` and a matrix product.

    Attributes:
        pointwise: operators that do not care about order, in execution order.
        steps: the rearrangements, which may as well all come first.
    """

    source: int
    pointwise: list[OperatorEntry]
    steps: list[Step]


def order_linear_weights(model: ModelEntry, graph: GraphEntry) -> int:
    """Move, in place, every transposition before a FULLY_CONNECTED into its weight; returns how many had one."""
    count = 0
    for operator in [*graph.operators]:
        if kind_of(model, operator) == "FULLY_CONNECTED":
            count += _order(model, graph, operator)
    drop_dead_operators(graph)
    return count


def _order(model: ModelEntry, graph: GraphEntry, linear: OperatorEntry) -> bool:
    weight = graph.tensors[linear.inputs[1]]
    raw, path = constant_of(model, weight), _path_to(model, graph, int(linear.inputs[0]))
    if (
        raw is None
        or type_name(weight.type) not in _STORED
        or not any(isinstance(step, Transpose) for step in path.steps)
    ):
        return False
    columns = shape_of(weight)[1]
    order = _column_order(shape_of(graph.tensors[path.source]), path.steps, columns)
    if order is None:
        return False
    values = np.frombuffer(raw.tobytes(), type_name(weight.type)).reshape(-1, columns)
    moved = np.empty_like(values)
    moved[:, order] = values
    shape, position = shape_of(graph.tensors[linear.inputs[0]]), graph.operators.index(linear)
    current = copied_tensor(graph, path.source, shape, "flat")
    operators = write_steps(model, graph, path.source, [Reshape(shape)], current)
    for operator in path.pointwise:
        operators.append(_copied(model, graph, operator, current, shape))
        current = int(operators[-1].outputs[0])
    linear.inputs = [current, _stored(model, graph, linear.inputs[1], moved), *linear.inputs[2:]]
    graph.operators[position:position] = operators
    return True


def _path_to(model: ModelEntry, graph: GraphEntry, tensor: int) -> _Path:
    """Everything in a row up to `tensor` that rearranges or does not care about order."""
    makers, path = makers_of(graph), _Path(tensor, [], [])
    while True:
        chain = chain_to(model, graph, path.source)
        path = _Path(chain.source, path.pointwise, [*chain.steps, *path.steps])
        operator = makers.get(path.source)
        if operator is None or kind_of(model, operator) not in POINTWISE:
            return path
        path = _Path(int(operator.inputs[0]), [operator, *path.pointwise], path.steps)


def _column_order(
    shape: tuple[int, ...], steps: list[Step], columns: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """`order[j]`: where column `j` lies within its row before the steps; None where numbers change their row."""
    positions = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    for step in steps:
        positions = positions.reshape(step.shape) if isinstance(step, Reshape) else positions.transpose(step.order)
    rows = positions.reshape(-1, columns)
    starts = np.arange(len(rows))[:, None] * columns
    order: np.ndarray[tuple[int], np.dtype[np.int64]] = rows[0]
    return order if np.array_equal(rows, starts + order) else None


def _copied(
    model: ModelEntry, graph: GraphEntry, operator: OperatorEntry, source: int, shape: tuple[int, ...]
) -> OperatorEntry:
    output = copied_tensor(graph, int(operator.outputs[0]), shape, "flat")
    copy = new_operator(model, kind_of(model, operator), [source, *operator.inputs[1:]], output, version=1)
    copy.opcodeIndex = operator.opcodeIndex
    copy.builtinOptions, copy.builtinOptionsType = operator.builtinOptions, operator.builtinOptionsType
    return copy


def _stored(
    model: ModelEntry, graph: GraphEntry, index: int, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> int:
    old, new = graph.tensors[index], schema().TensorT()
    new.name, new.shape, new.type = (old.name or b"") + b"/ordered", [*values.shape], old.type
    new.quantization, new.buffer = old.quantization, new_constant(model, values)
    graph.tensors.append(new)
    return len(graph.tensors) - 1
