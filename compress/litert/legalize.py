"""Edits that make a converted INT8 file one that old runtimes and the Edge TPU compiler accept; every number stays.

* PADV2 whose constant is the zero point does what PAD does, and only PAD is mapped; before a maximum over numbers that
  a ReLU made, zero does what a negative number does.
* Operator versions are lowered to the oldest that has the semantics used, as TensorFlow's own converter would write
  (https://github.com/tensorflow/tensorflow/blob/v2.14.0/tensorflow/lite/tools/versioning/op_version.cc): newer numbers
  are refused by a runtime that has no newer kernel, whatever the operator does.
* FULLY_CONNECTED from rank 2 to rank 2 keeps no dimensions, which is version 4 and not 5.
* RESIZE_NEAREST_NEIGHBOR is version 2 where it does not use half-pixel centres.
* `deprecated_builtin_code` is filled for readers that know no other; operator codes nobody uses are dropped.
* Reshapes and transpositions in a row take their shortest form, a channel shuffle one transposition in place of three
  (`rearrange`); two that undo each other around a padding or a slice go (`transposes`); one before a matrix product
  becomes the order of its weight (`linear_order`).
"""

from __future__ import annotations

import numpy as np

from compress.litert.compact import drop_unused
from compress.litert.flatbuffer import (
    CodeEntry,
    GraphEntry,
    ModelEntry,
    OperatorEntry,
    constant_of,
    kind_name,
    new_code,
    operator_code,
    schema,
    shape_of,
)
from compress.litert.linear_order import order_linear_weights
from compress.litert.rearrange import simplify_rearrangements
from compress.litert.transposes import cancel_transposes

__all__ = ["legalize"]

_INT8_VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "LEAKY_RELU": 2,
    "LOGISTIC": 2,
    "MAXIMUM": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MINIMUM": 2,
    "MUL": 2,
    "PACK": 2,
    "PAD": 2,
    "PADV2": 2,
    "RELU": 2,
    "RELU6": 2,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 2,
    "SLICE": 2,
    "SOFTMAX": 2,
    "SPLIT": 2,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 2,
    "TANH": 2,
    "TRANSPOSE": 2,
    "TRANSPOSE_CONV": 2,
}
"""Oldest version with an INT8 kernel. Bare requirements; what an operator's options ask beyond them is in `_lowest`."""

_WITHOUT_BIAS = 3  # inputs of a TRANSPOSE_CONV: output shape, weight, data
_LAST_DEPRECATED_CODE = 127  # `PLACEHOLDER_FOR_GREATER_OP_CODES`: the old field is one signed byte
_LARGEST_OLD_RANK = {"TRANSPOSE": 4, "STRIDED_SLICE": 4, "SLICE": 4, "ADD": 4, "MUL": 4, "SUB": 4}
"""Operators that are newer with tensors of a higher rank; those keep the version they have."""


def legalize(model: ModelEntry) -> None:
    """Apply every edit in place."""
    for graph in model.subgraphs:
        while simplify_rearrangements(model, graph) + cancel_transposes(model, graph):
            pass
        order_linear_weights(model, graph)
        for operator in graph.operators:
            _pad_with_zero_point(model, graph, operator)
            _keep_no_dimensions(model, graph, operator)
    _split_codes(model)
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = min(operator_code(code), _LAST_DEPRECATED_CODE)
    drop_unused(model)


def _pad_with_zero_point(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> None:
    if kind_name(model.operatorCodes[operator.opcodeIndex]) != "PADV2":
        return
    data, filler = graph.tensors[operator.inputs[0]], graph.tensors[operator.inputs[2]]
    value, quantization = constant_of(model, filler), data.quantization
    if value is None or quantization is None or quantization.zeroPoint is None or data.type != schema().TensorType.INT8:
        return
    padding, zero = int(value.view(np.int8)[0]), int(quantization.zeroPoint[0])
    if padding == zero or (padding < zero and _pads_maximum(model, graph, operator)):
        operator.opcodeIndex = new_code(model, "PAD", 2)
        operator.inputs = operator.inputs[:2]
        operator.builtinOptionsType = schema().BuiltinOptions.PadOptions
        operator.builtinOptions = schema().PadOptionsT()


def _pads_maximum(model: ModelEntry, graph: GraphEntry, pad: OperatorEntry) -> bool:
    """Whether a negative number pads a maximum over numbers that are never negative: zero pads that as well."""
    readers = [other for other in graph.operators if pad.outputs[0] in other.inputs]
    maker = next((other for other in graph.operators if pad.inputs[0] in other.outputs), None)
    fused = getattr(maker.builtinOptions, "fusedActivationFunction", 0) if maker is not None else 0
    relus = (schema().ActivationFunctionType.RELU, schema().ActivationFunctionType.RELU6)
    kinds = {kind_name(model.operatorCodes[reader.opcodeIndex]) for reader in readers}
    return kinds == {"MAX_POOL_2D"} and fused in relus


def _keep_no_dimensions(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> None:
    options = operator.builtinOptions
    if kind_name(model.operatorCodes[operator.opcodeIndex]) != "FULLY_CONNECTED" or options is None:
        return
    ranks = {len(shape_of(graph.tensors[index])) for index in (operator.inputs[0], operator.outputs[0])}
    if ranks == {2}:
        options.keepNumDims = False  # type: ignore[attr-defined]  # a field of FullyConnectedOptionsT


def _split_codes(model: ModelEntry) -> None:
    """Give every operator the code of its kind at the lowest version it needs; unused codes go."""
    kinds = [kind_name(code) for code in model.operatorCodes]
    wanted: dict[tuple[str, int], int] = {}
    codes: list[CodeEntry] = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            old = operator.opcodeIndex
            key = (kinds[old], _lowest(model, graph, operator, kinds[old]))
            if key not in wanted:
                wanted[key] = len(codes)
                codes.append(_copy_of(model, old, key[1]))
            operator.opcodeIndex = wanted[key]
    model.operatorCodes = codes


def _lowest(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry, kind: str) -> int:
    """The oldest version with what this operator uses; its own where that is not known here."""
    current = model.operatorCodes[operator.opcodeIndex].version
    if kind == "RESIZE_NEAREST_NEIGHBOR":
        return current if getattr(operator.builtinOptions, "halfPixelCenters", False) else min(current, 2)
    floor = _INT8_VERSIONS.get(kind)
    tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
    if floor is None or not _all_int8(graph, operator):
        return current
    if kind == "FULLY_CONNECTED" and getattr(operator.builtinOptions, "keepNumDims", False):
        return current
    if kind == "CONV_2D" and _is_grouped(graph, operator):
        return current
    if kind == "TRANSPOSE_CONV" and len(operator.inputs) > _WITHOUT_BIAS:
        return min(current, floor + 1)
    if kind == "FULLY_CONNECTED" and _has_several_scales(graph, operator):
        return current
    if max(len(shape_of(tensor)) for tensor in tensors) > _LARGEST_OLD_RANK.get(kind, 8):
        return current
    return min(current, floor)


def _all_int8(graph: GraphEntry, operator: OperatorEntry) -> bool:
    first = (*operator.inputs[:1], *operator.outputs[:1])
    return all(graph.tensors[index].type == schema().TensorType.INT8 for index in first if index >= 0)


def _is_grouped(graph: GraphEntry, operator: OperatorEntry) -> bool:
    data, weight = (shape_of(graph.tensors[index])[-1] for index in operator.inputs[:2])
    return int(data) != int(weight)


def _has_several_scales(graph: GraphEntry, operator: OperatorEntry) -> bool:
    quantization = graph.tensors[operator.inputs[1]].quantization
    return quantization is not None and quantization.scale is not None and len(quantization.scale) > 1


def _copy_of(model: ModelEntry, index: int, version: int) -> CodeEntry:
    old = model.operatorCodes[index]
    code: CodeEntry = schema().OperatorCodeT()
    code.builtinCode, code.customCode, code.version = operator_code(old), old.customCode, version
    return code
