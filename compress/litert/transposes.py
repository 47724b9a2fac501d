"""Transpositions that undo each other around operators which do not care where an axis lies.

The converter does not move channel padding and slices to channels-last by itself: it leaves
`TRANSPOSE -> PAD -> TRANSPOSE back`, as in the shortcuts of the CIFAR ResNets (He et al. 2015, option A). Moving the
operator's own numbers along makes both transpositions superfluous.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress.litert.flatbuffer import (
    GraphEntry,
    ModelEntry,
    OperatorEntry,
    constant_of,
    kind_name,
    new_constant,
    schema,
    shape_of,
)

__all__ = ["cancel_transposes"]

_BY_AXIS = {"PAD": (1,), "PADV2": (1,), "SLICE": (1, 2)}
"""Operators with one row of numbers for each axis, and the inputs that hold them."""

_POINTWISE = frozenset({"RELU", "RELU6", "LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "QUANTIZE"})


def cancel_transposes(model: ModelEntry, graph: GraphEntry) -> int:
    """Remove, in place, every pair around movable operators; returns how many pairs there were."""
    count = 0
    while (found := next(_pairs(model, graph), None)) is not None:
        _remove(model, graph, found)
        count += 1
    return count


def _pairs(model: ModelEntry, graph: GraphEntry) -> Iterator[list[OperatorEntry]]:
    """Chains that begin with a TRANSPOSE, end with its inverse, and have nothing but movable operators between."""
    readers: dict[int, list[OperatorEntry]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            readers.setdefault(int(index), []).append(operator)
    for operator in graph.operators:
        chain = _chain(model, graph, operator, readers)
        if chain is not None:
            yield chain


def _chain(
    model: ModelEntry, graph: GraphEntry, first: OperatorEntry, readers: dict[int, list[OperatorEntry]]
) -> list[OperatorEntry] | None:
    order = _order(model, graph, first)
    chain = [first]
    while order:
        users = readers.get(int(chain[-1].outputs[0]), [])
        if len(users) != 1 or chain[-1].outputs[0] in graph.outputs:
            return None
        chain.append(users[0])
        back = _order(model, graph, users[0])
        if back:
            return chain if [order[axis] for axis in back] == list(range(len(order))) else None
        if not _is_movable(model, graph, users[0]):
            return None
    return None


def _is_movable(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> bool:
    kind = kind_name(model.operatorCodes[operator.opcodeIndex])
    if kind in _POINTWISE:
        return True
    stored = (constant_of(model, graph.tensors[operator.inputs[index]]) for index in _BY_AXIS.get(kind, ()))
    return kind in _BY_AXIS and all(values is not None for values in stored)


def _order(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> list[int]:
    """The axes of a TRANSPOSE with stored numbers; empty for any other operator."""
    if kind_name(model.operatorCodes[operator.opcodeIndex]) != "TRANSPOSE":
        return []
    raw = constant_of(model, graph.tensors[operator.inputs[1]])
    return [] if raw is None else [int(axis) for axis in np.frombuffer(raw.tobytes(), np.int32)]


def _remove(model: ModelEntry, graph: GraphEntry, chain: list[OperatorEntry]) -> None:
    first, *inner, last = chain
    order = _order(model, graph, first)
    source = first.inputs[0]
    for operator in inner:
        kind = kind_name(model.operatorCodes[operator.opcodeIndex])
        inputs = [source, *operator.inputs[1:]]
        for index in _BY_AXIS.get(kind, ()):
            inputs[index] = _moved(model, graph, inputs[index], order)
        operator.inputs = inputs
        source = operator.outputs[0]
        result = graph.tensors[source]
        result.shape = _scatter(list(shape_of(result)), order)
        result.shapeSignature = None
    if inner:
        inner[-1].outputs = last.outputs
    else:
        _replace_reads(graph, last.outputs[0], source)
    graph.operators = [operator for operator in graph.operators if operator is not first and operator is not last]


def _moved(model: ModelEntry, graph: GraphEntry, index: int, order: list[int]) -> int:
    """A new constant with the rows of the old one where their axes are now."""
    old = graph.tensors[index]
    raw = constant_of(model, old)
    assert raw is not None
    rows = np.frombuffer(raw.tobytes(), np.int32).reshape(shape_of(old))
    moved = np.empty_like(rows)
    moved[order] = rows
    tensor = schema().TensorT()
    tensor.name, tensor.shape, tensor.type = (old.name or b"") + b"_moved", list(rows.shape), old.type
    tensor.buffer = new_constant(model, moved)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _scatter(sizes: list[int], order: list[int]) -> list[int]:
    moved = list(sizes)
    for position, axis in enumerate(order):
        moved[axis] = sizes[position]
    return moved


def _replace_reads(graph: GraphEntry, old: int, new: int) -> None:
    for operator in graph.operators:
        operator.inputs = [new if index == old else index for index in operator.inputs]
    graph.outputs = [new if index == old else index for index in graph.outputs]
