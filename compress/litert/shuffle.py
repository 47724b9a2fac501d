"""A channel shuffle (Zhang et al. 2018) in the file's own layout.

PyTorch shuffles `[N, C, H, W]` by `view(N, g, C/g, H, W)`, `transpose(1, 2)`, `view(N, C, H, W)`. In a channels-last
file the converter brackets that with two layout changes: five operators, three of them transpositions, one of rank 5.
The same numbers move with one, `[H W, g, C/g]` to `[H W, C/g, g]`, which also keeps to the three dimensions that an
Edge TPU has.
"""

from __future__ import annotations

from dataclasses import dataclass

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

__all__ = ["simplify_shuffles"]

_PATTERN = ("TRANSPOSE", "RESHAPE", "TRANSPOSE", "RESHAPE", "TRANSPOSE")
_ORDERS = ((0, 3, 1, 2), (0, 2, 1, 3, 4), (0, 2, 3, 1))


@dataclass(frozen=True)
class _Shuffle:
    """The five operators, and the groups `g`."""

    chain: list[OperatorEntry]
    groups: int


def simplify_shuffles(model: ModelEntry, graph: GraphEntry) -> int:
    """Rewrite every channel shuffle of `graph` in place; returns how many there were."""
    readers: dict[int, list[OperatorEntry]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            readers.setdefault(index, []).append(operator)
    found = [shuffle for operator in graph.operators if (shuffle := _match(model, graph, operator, readers))]
    for shuffle in found:
        _rewrite(model, graph, shuffle)
    return len(found)


def _match(
    model: ModelEntry, graph: GraphEntry, first: OperatorEntry, readers: dict[int, list[OperatorEntry]]
) -> _Shuffle | None:
    chain = [first]
    while len(chain) < len(_PATTERN):
        users = readers.get(chain[-1].outputs[0], [])
        if len(users) != 1 or chain[-1].outputs[0] in graph.outputs:
            return None
        chain.append(users[0])
    kinds = tuple(kind_name(model.operatorCodes[operator.opcodeIndex]) for operator in chain)
    if kinds != _PATTERN or tuple(_order(model, graph, operator) for operator in chain[::2]) != _ORDERS:
        return None
    split, given, result = (_shape(graph, operator) for operator in (chain[1], chain[0], chain[4]))
    batch, channels, height, width = given
    whole = split[0] == batch and split[1] * split[2] == channels and split[3:] == (height, width)
    return _Shuffle(chain, split[1]) if whole and result == (batch, height, width, channels) else None


def _rewrite(model: ModelEntry, graph: GraphEntry, shuffle: _Shuffle) -> None:
    first, split, swap, join, last = shuffle.chain
    batch, height, width, channels = _shape(graph, last)
    size = channels // shuffle.groups
    split.inputs = [first.inputs[0], _stored(model, graph, (batch, height * width, shuffle.groups, size))]
    _resize(graph, split, (batch, height * width, shuffle.groups, size))
    swap.inputs = [split.outputs[0], _stored(model, graph, (0, 1, 3, 2))]
    _resize(graph, swap, (batch, height * width, size, shuffle.groups))
    join.inputs = [swap.outputs[0], _stored(model, graph, (batch, height, width, channels))]
    join.outputs = last.outputs
    for reshape in (split, join):
        reshape.builtinOptionsType = schema().BuiltinOptions.ReshapeOptions
        options = schema().ReshapeOptionsT()
        options.newShape = list(_shape(graph, reshape))
        reshape.builtinOptions = options
    graph.operators = [operator for operator in graph.operators if operator is not first and operator is not last]


def _order(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> tuple[int, ...]:
    raw = constant_of(model, graph.tensors[operator.inputs[1]])
    return () if raw is None else tuple(int(axis) for axis in np.frombuffer(raw.tobytes(), np.int32))


def _shape(graph: GraphEntry, operator: OperatorEntry) -> tuple[int, ...]:
    return shape_of(graph.tensors[operator.outputs[0]])


def _resize(graph: GraphEntry, operator: OperatorEntry, shape: tuple[int, ...]) -> None:
    graph.tensors[operator.outputs[0]].shape = list(shape)


def _stored(model: ModelEntry, graph: GraphEntry, numbers: tuple[int, ...]) -> int:
    """Index of a new constant tensor of int32 numbers."""
    tensor = schema().TensorT()
    tensor.name = f"shuffle/{len(graph.tensors)}".encode()
    tensor.shape, tensor.type = [len(numbers)], schema().TensorType.INT32
    tensor.buffer = new_constant(model, np.asarray(numbers, np.int32))
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
