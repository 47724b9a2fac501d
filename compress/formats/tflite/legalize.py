"""Edits that make a converted INT8 file one that old runtimes and the Edge TPU compiler accept; every number stays.

* PADV2 whose constant is the zero point does what PAD does, and only PAD is mapped; before a maximum over numbers that
  a ReLU made, zero does what a negative number does.
* Operator versions are the oldest with the semantics used (`versions`): newer numbers are refused by a runtime that has
  no newer kernel, whatever the operator does.
* FULLY_CONNECTED from rank 2 to rank 2 keeps no dimensions, which is version 4 and not 5; a bias that is left out is
  said to be, which version 6 would not ask for.
* `deprecated_builtin_code` is filled for readers that know no other; operator codes nobody uses are dropped.
* Reshapes and transpositions in a row take their shortest form, a channel shuffle one transposition in place of three
  (`rearrange`); two that undo each other around a padding or a slice go (`transposes`); one before a matrix product
  becomes the order of its weight (`linear_order`).
"""

from __future__ import annotations

import numpy as np

from compress.formats.tflite.compact import drop_unused
from compress.formats.tflite.edit import kind_of
from compress.formats.tflite.flatbuffer import (
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
from compress.formats.tflite.linear_order import order_linear_weights
from compress.formats.tflite.network import network_of
from compress.formats.tflite.rearrange import simplify_rearrangements
from compress.formats.tflite.transposes import cancel_transposes
from compress.formats.tflite.versions import needed_version

__all__ = ["legalize"]

_LAST_DEPRECATED_CODE = 127  # `PLACEHOLDER_FOR_GREATER_OP_CODES`: the old field is one signed byte


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
    if kind_of(model, operator) != "PADV2":
        return
    # PAD fills with the zero point of its output
    result, filler = graph.tensors[operator.outputs[0]], graph.tensors[operator.inputs[2]]
    value, quantization = constant_of(model, filler), result.quantization
    if (
        value is None
        or quantization is None
        or quantization.zeroPoint is None
        or result.type != schema().TensorType.INT8
    ):
        return
    padding, zero = int(value.view(np.int8)[0]), int(quantization.zeroPoint[0])
    if padding == zero or (padding < zero and _pads_maximum(model, graph, operator)):
        operator.opcodeIndex = new_code(model, "PAD", 2)
        operator.inputs = operator.inputs[:2]
        operator.builtinOptionsType = schema().BuiltinOptions.PadOptions
        operator.builtinOptions = schema().PadOptionsT()


def _pads_maximum(model: ModelEntry, graph: GraphEntry, pad: OperatorEntry) -> bool:
    """Tell whether a negative number pads a maximum over numbers never negative: zero pads that as well.

    Not where something else sees the padding: the network's caller, or a window that lies in the padding alone.
    """
    if pad.outputs[0] in graph.outputs:
        return False
    readers = [other for other in graph.operators if pad.outputs[0] in other.inputs]
    maker = next((other for other in graph.operators if pad.inputs[0] in other.outputs), None)
    fused = getattr(maker.builtinOptions, "fusedActivationFunction", 0) if maker is not None else 0
    relus = (schema().ActivationFunctionType.RELU, schema().ActivationFunctionType.RELU6)
    kinds = {kind_of(model, reader) for reader in readers}
    return kinds == {"MAX_POOL_2D"} and fused in relus and all(_sees_data(model, graph, pad, r) for r in readers)


def _sees_data(model: ModelEntry, graph: GraphEntry, pad: OperatorEntry, pool: OperatorEntry) -> bool:
    """Tell whether each window of a pooling, which does not pad itself, holds a number that is no padding."""
    raw = constant_of(model, graph.tensors[pad.inputs[1]])
    if raw is None:
        return False
    kind = np.int64 if graph.tensors[pad.inputs[1]].type == schema().TensorType.INT64 else np.int32
    widest = np.frombuffer(raw.tobytes(), kind).reshape(-1, 2).max(axis=1)
    options = pool.builtinOptions
    window = (1, getattr(options, "filterHeight", 0), getattr(options, "filterWidth", 0), 1)
    valid = getattr(options, "padding", None) == schema().Padding.VALID
    return valid and len(widest) == len(window) and all(w < size for w, size in zip(widest, window, strict=True))


def _keep_no_dimensions(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> None:
    options = operator.builtinOptions
    if kind_of(model, operator) != "FULLY_CONNECTED" or options is None:
        return
    ranks = {len(shape_of(graph.tensors[index])) for index in (operator.inputs[0], operator.outputs[0])}
    if ranks == {2}:
        options.keepNumDims = False  # type: ignore[attr-defined]  # a field of FullyConnectedOptionsT
    if len(operator.inputs) == 2:
        operator.inputs = [*operator.inputs, -1]


def _split_codes(model: ModelEntry) -> None:
    """Give every operator the code of its kind at the version it needs (`versions`); unused codes go."""
    versions = [needed_version(operator) for operator in network_of(model).operators]
    positions: dict[tuple[str, int], int] = {}
    codes: list[CodeEntry] = []
    for graph in model.subgraphs:
        for index, operator in enumerate(graph.operators):
            old = model.operatorCodes[operator.opcodeIndex]
            version = versions[index] if graph is model.subgraphs[0] else None
            key = (kind_name(old), old.version if version is None else version)
            if key not in positions:
                positions[key] = len(codes)
                codes.append(_copy_of(model, operator.opcodeIndex, key[1]))
            operator.opcodeIndex = positions[key]
    model.operatorCodes = codes


def _copy_of(model: ModelEntry, index: int, version: int) -> CodeEntry:
    old = model.operatorCodes[index]
    code: CodeEntry = schema().OperatorCodeT()
    code.builtinCode, code.customCode, code.version = operator_code(old), old.customCode, version
    return code
