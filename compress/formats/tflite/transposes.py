"""Transpositions that undo each other around operators which do not care where an axis lies.

The converter does not move padding and slices to channels-last by itself: it leaves `TRANSPOSE -> PAD -> TRANSPOSE
back`, as in the shortcuts of the CIFAR ResNets (He et al. 2015, option A) and before the strided convolutions of
networks that came from TensorFlow. Moving the operator's own numbers along makes both transpositions superfluous.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress.formats.tflite.edit import drop_dead_operators, kind_of, readers_of, stored_integers
from compress.formats.tflite.flatbuffer import (
    GraphEntry,
    ModelEntry,
    OperatorEntry,
    constant_of,
    new_constant,
    schema,
    shape_of,
)
from compress.formats.tflite.linear_order import POINTWISE

__all__ = ["cancel_transposes"]

_BY_AXIS = {"PAD": (1,), "PADV2": (1,), "SLICE": (1, 2)}
"""Operators with one row of numbers for each axis, and the inputs that hold them."""


def cancel_transposes(model: ModelEntry, graph: GraphEntry) -> int:
    """Remove, in place, every pair around movable operators; returns how many pairs there were."""
    count = 0
    while (pair := next(_pairs(model, graph), None)) is not None:
        _remove(model, graph, pair)
        drop_dead_operators(graph)
        count += 1
    return count


def _pairs(model: ModelEntry, graph: GraphEntry) -> Iterator[list[OperatorEntry]]:
    """Chains that begin with a TRANSPOSE, end with its inverse, and have nothing but movable operators between."""
    readers = readers_of(graph)
    for first in graph.operators:
        order = _order(model, graph, first)
        for reader in readers.get(int(first.outputs[0]), []) if order else []:
            inner = _inner(model, graph, reader, order, readers)
            if inner is not None:
                yield [first, *inner]


def _inner(
    model: ModelEntry,
    graph: GraphEntry,
    operator: OperatorEntry,
    order: list[int],
    readers: dict[int, list[OperatorEntry]],
) -> list[OperatorEntry] | None:
    """The movable operators from `operator` on, with the TRANSPOSE behind them that undoes `order`."""
    inner = [operator]
    while not (back := _order(model, graph, inner[-1])):
        users = readers.get(int(inner[-1].outputs[0]), [])
        if not _is_movable(model, graph, inner[-1]) or len(users) != 1 or inner[-1].outputs[0] in graph.outputs:
            return None
        inner.append(users[0])
    return inner if len(inner) > 1 and [order[axis] for axis in back] == list(range(len(order))) else None


def _is_movable(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> bool:
    kind = kind_of(model, operator)
    if kind in POINTWISE:
        return True
    stored = (constant_of(model, graph.tensors[operator.inputs[index]]) for index in _BY_AXIS.get(kind, ()))
    return kind in _BY_AXIS and all(values is not None for values in stored)


def _order(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> list[int]:
    """The axes of a TRANSPOSE with stored numbers; empty for any other operator."""
    if kind_of(model, operator) != "TRANSPOSE":
        return []
    return stored_integers(model, graph, operator.inputs[1]) or []


def _remove(model: ModelEntry, graph: GraphEntry, chain: list[OperatorEntry]) -> None:
    first, *inner, last = chain
    order = _order(model, graph, first)
    source = first.inputs[0]
    for operator in inner:
        inputs = [source, *operator.inputs[1:]]
        for index in _BY_AXIS.get(kind_of(model, operator), ()):
            inputs[index] = _moved(model, graph, inputs[index], order)
        operator.inputs = inputs
        source = operator.outputs[0]
        result = graph.tensors[source]
        result.shape = _scatter(list(shape_of(result)), order)
        result.shapeSignature = None
    inner[-1].outputs = last.outputs
    graph.operators = [operator for operator in graph.operators if operator is not last]


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
