"""Helpers of every edit of a file's graph: who reads and makes a tensor, stored integers, new tensors and operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress.formats.tflite.flatbuffer import (
    GraphEntry,
    ModelEntry,
    OperatorEntry,
    TensorEntry,
    constant_of,
    kind_name,
    new_code,
    new_constant,
    schema,
)

__all__ = [
    "copied_tensor",
    "drop_dead_operators",
    "integer_constant",
    "kind_of",
    "makers_of",
    "new_operator",
    "readers_of",
    "replace_reads",
    "stored_integers",
]


def kind_of(model: ModelEntry, operator: OperatorEntry) -> str:
    """`CONV_2D`, or what a custom operator calls itself."""
    return kind_name(model.operatorCodes[operator.opcodeIndex])


def readers_of(graph: GraphEntry) -> dict[int, list[OperatorEntry]]:
    """The operators that read each tensor, in execution order, by the tensor's index."""
    readers: dict[int, list[OperatorEntry]] = {}
    for operator in graph.operators:
        for index in dict.fromkeys(int(index) for index in operator.inputs):
            readers.setdefault(index, []).append(operator)
    return readers


def makers_of(graph: GraphEntry) -> dict[int, OperatorEntry]:
    """The operator that computes each tensor, by the tensor's index."""
    return {int(index): operator for operator in graph.operators for index in operator.outputs}


def stored_integers(model: ModelEntry, graph: GraphEntry, index: int) -> list[int] | None:
    """The numbers of a constant int32 tensor, flat; None for a tensor that is computed."""
    raw = constant_of(model, graph.tensors[index])
    return None if raw is None else [int(value) for value in np.frombuffer(raw.tobytes(), np.int32)]


def integer_constant(model: ModelEntry, graph: GraphEntry, numbers: Sequence[int]) -> int:
    """Index of a new constant tensor `[len(numbers)]` of int32."""
    tensor: TensorEntry = schema().TensorT()
    tensor.name = f"integers/{len(graph.tensors)}".encode()
    tensor.shape, tensor.type = [len(numbers)], schema().TensorType.INT32
    tensor.buffer = new_constant(model, np.asarray(numbers, np.int32))
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def copied_tensor(graph: GraphEntry, index: int, shape: Sequence[int], suffix: str) -> int:
    """Index of a new computed tensor with the element type and the scale of another one."""
    old, new = graph.tensors[index], schema().TensorT()
    new.name = (old.name or b"") + f"/{suffix}{len(graph.tensors)}".encode()
    new.shape, new.type, new.buffer, new.quantization = [*shape], old.type, 0, old.quantization
    graph.tensors.append(new)
    return len(graph.tensors) - 1


def new_operator(
    model: ModelEntry, kind: str, inputs: Sequence[int], output: int, *, version: int, options: object = None
) -> OperatorEntry:
    """An operator that is not in the graph yet; `options` is an object of the schema (`ReshapeOptionsT`)."""
    operator: OperatorEntry = schema().OperatorT()
    operator.opcodeIndex = new_code(model, kind, version)
    operator.inputs, operator.outputs = [*inputs], [output]
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema().BuiltinOptions, type(options).__name__.removesuffix("T"))
    return operator


def replace_reads(graph: GraphEntry, old: int, new: int) -> None:
    """Let every reader of tensor `old` read `new`."""
    for operator in graph.operators:
        operator.inputs = [new if index == old else index for index in operator.inputs]


def drop_dead_operators(graph: GraphEntry) -> None:
    """Remove, in place, the operators whose results nothing reads."""
    used = {int(index) for index in graph.outputs}
    kept: list[OperatorEntry] = []
    for operator in reversed(graph.operators):
        if used.intersection(int(index) for index in operator.outputs):
            used.update(int(index) for index in operator.inputs)
            kept.append(operator)
    graph.operators = kept[::-1]
