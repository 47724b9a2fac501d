"""The file's side of `transposed_conv`: TRANSPOSE_CONV where the converter kept our composite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.formats.tflite.axis_atoms import Step
from compress.formats.tflite.edit import (
    copied_tensor,
    drop_dead_operators,
    integer_constant,
    kind_of,
    makers_of,
    new_operator,
    readers_of,
)
from compress.formats.tflite.flatbuffer import GraphEntry, ModelEntry, OperatorEntry, new_constant, schema, shape_of
from compress.formats.tflite.rearrange import chain_to, step_of, write_steps
from compress.formats.tflite.transposed_conv import TransposedConv

__all__ = ["write_transposed_convs"]

_SUBGRAPHS = frozenset({"STABLEHLO_COMPOSITE", "CALL", "CALL_ONCE", "IF", "WHILE"})


def write_transposed_convs(model: ModelEntry, layers: Mapping[str, TransposedConv]) -> None:
    """Replace every composite that `layers` names, in place, and drop what the converter kept to stand for it."""
    if not layers:
        return
    graph = model.subgraphs[0]
    for operator in [*graph.operators]:
        options = getattr(operator, "builtinOptions2", None)
        if kind_of(model, operator) == "STABLEHLO_COMPOSITE" and options is not None:
            name = (options.name or b"").decode()
            if name in layers:
                _write(model, graph, operator, layers[name])
    drop_dead_operators(graph)
    if not any(kind_of(model, operator) in _SUBGRAPHS for operator in graph.operators):
        model.subgraphs = [graph]


@dataclass(frozen=True)
class _Ends:
    """Ends that TRANSPOSE_CONV reads and writes, and the rearrangements before and after it."""

    source: int
    result: int
    before: list[OperatorEntry]
    after: list[OperatorEntry]


def _write(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry, layer: TransposedConv) -> None:
    position = graph.operators.index(operator)
    integers = _integer_ends(model, graph, operator) if layer.scale is not None else None
    ends = integers or _Ends(int(operator.inputs[0]), int(operator.outputs[0]), [], [])
    weight = layer.weight if integers else _floats(layer.weight, layer.scale)
    inputs = [-1, _constant(model, graph, weight, layer.scale if integers else None), ends.source]
    if layer.bias is not None:
        inputs.append(_bias(model, graph, layer, ends.source, integers=integers is not None))
    size = shape_of(graph.tensors[ends.result])
    whole = size if layer.same else (1, *layer.whole(_height_and_width(graph, ends.source)), size[3])
    output = ends.result if whole == size else copied_tensor(graph, ends.result, whole, "whole")
    inputs[0] = integer_constant(model, graph, whole)
    operators = [_transpose_conv(model, layer, inputs, output)]
    if output != ends.result:
        begin, count = (integer_constant(model, graph, numbers) for numbers in ((0, *layer.offset, 0), size))
        options = schema().SliceOptionsT()
        operators.append(new_operator(model, "SLICE", (output, begin, count), ends.result, version=2, options=options))
    graph.operators[position : position + 1] = [*ends.before, *operators, *ends.after]


def _integer_ends(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> _Ends | None:
    """The integers that the composite's floats come from and become; None where one of them is a float for good."""
    before = chain_to(model, graph, int(operator.inputs[0]))
    maker = makers_of(graph).get(before.source)
    after, last = _chain_from(model, graph, int(operator.outputs[0]))
    if maker is None or kind_of(model, maker) != "DEQUANTIZE" or last is None:
        return None
    source, result = int(maker.inputs[0]), int(last.outputs[0])
    arrangements: list[list[OperatorEntry]] = [[], []]
    if before.steps:
        arranged = copied_tensor(graph, source, shape_of(graph.tensors[operator.inputs[0]]), "arranged")
        arrangements[0] = write_steps(model, graph, source, before.steps, arranged)
        source = arranged
    graph.operators = [other for other in graph.operators if other is not last]
    if after:
        computed = copied_tensor(graph, result, shape_of(graph.tensors[operator.outputs[0]]), "computed")
        arrangements[1] = write_steps(model, graph, computed, after, result)
        result = computed
    return _Ends(source, result, *arrangements)


def _chain_from(model: ModelEntry, graph: GraphEntry, tensor: int) -> tuple[list[Step], OperatorEntry | None]:
    """The rearrangements between `tensor` and the one QUANTIZE that it becomes integers by."""
    readers = readers_of(graph)
    steps: list[Step] = []
    while True:
        users = readers.get(tensor, [])
        if len(users) != 1 or tensor in graph.outputs:
            return [], None
        if kind_of(model, users[0]) == "QUANTIZE":
            return steps, users[0]
        step = step_of(model, graph, users[0])
        if step is None:
            return [], None
        steps.append(step)
        tensor = int(users[0].outputs[0])


def _height_and_width(graph: GraphEntry, tensor: int) -> tuple[int, int]:
    _, height, width, _ = shape_of(graph.tensors[tensor])
    return height, width


def _bias(model: ModelEntry, graph: GraphEntry, layer: TransposedConv, source: int, *, integers: bool) -> int:
    """Index of the bias: 32-bit integers with the scale of the products, or floats."""
    assert layer.bias is not None
    grid = graph.tensors[source].quantization
    if not integers or grid is None or grid.scale is None or layer.scale is None:
        return _constant(model, graph, _floats(layer.bias, layer.bias_scale), None)
    return _constant(model, graph, layer.bias, layer.scale * np.float32(grid.scale[0]))


def _floats(values: NDArray[np.generic], scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The numbers that integers `[O, ...]` stand for; floats as they are."""
    floats = values.astype(np.float32)
    return floats if scale is None else floats * scale.reshape(-1, *(1,) * (values.ndim - 1))


def _constant(
    model: ModelEntry, graph: GraphEntry, values: NDArray[np.generic], scale: NDArray[np.float32] | None
) -> int:
    tensor = schema().TensorT()
    tensor.name, tensor.shape = f"transposed_conv/{len(graph.tensors)}".encode(), [*values.shape]
    tensor.type = getattr(schema().TensorType, values.dtype.name.upper())
    tensor.buffer = new_constant(model, values)
    if scale is not None:
        tensor.quantization = schema().QuantizationParametersT()
        # A scale for the tensor where all are equal: more kernels have that form.
        kept = scale[:1] if np.all(scale == scale[0]) else scale
        tensor.quantization.scale = [float(value) for value in kept]
        tensor.quantization.zeroPoint = [0] * len(kept)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _transpose_conv(model: ModelEntry, layer: TransposedConv, inputs: list[int], output: int) -> OperatorEntry:
    options = schema().TransposeConvOptionsT()
    options.strideH, options.strideW = layer.stride
    options.padding = schema().Padding.SAME if layer.same else schema().Padding.VALID
    # 3: with a bias; 2: INT8 (TensorFlow 2.14, lite/tools/versioning/op_version.cc)
    version = 3 if layer.bias is not None else 2 if layer.scale is not None else 1
    return new_operator(model, "TRANSPOSE_CONV", inputs, output, version=version, options=options)
