"""The outside of a file: element types of input and output, and what it says about itself.

The converter writes INT8 in and out. `uint8` puts one QUANTIZE on either side (the same numbers, shifted by 128, as
camera pixels come); `float32` puts QUANTIZE and DEQUANTIZE there, so that callers need not know the scales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import numpy as np

from compress.formats.tflite.flatbuffer import (
    GraphEntry,
    ModelEntry,
    OperatorEntry,
    TensorEntry,
    new_code,
    new_constant,
    schema,
)

__all__ = ["METADATA_NAME", "RUNTIME_NAME", "Io", "embed_metadata", "name_interface", "set_io", "state_runtime"]

Io = Literal["int8", "uint8", "float32"]
METADATA_NAME = "edge_compress.json"
"""Entry of the file's metadata: a JSON object of normalisation, labels, precision and origin."""

RUNTIME_NAME = "min_runtime_version"
_RUNTIME_BYTES = 16  # TensorFlow's converter pads the version to that

_SHIFT = 128  # from int8 to uint8 at the same scale


def embed_metadata(model: ModelEntry, entries: Mapping[str, object]) -> None:
    """Store a JSON document inside the file, under `METADATA_NAME`."""
    _embed(model, METADATA_NAME, json.dumps(entries, ensure_ascii=False).encode())


def state_runtime(model: ModelEntry, version: str) -> None:
    """Store the oldest runtime that loads the file where TensorFlow's converter stores it."""
    _embed(model, RUNTIME_NAME, version.encode().ljust(_RUNTIME_BYTES, b"\0"))


def _embed(model: ModelEntry, name: str, content: bytes) -> None:
    entry = schema().MetadataT()
    entry.name, entry.buffer = name.encode(), new_constant(model, np.frombuffer(content, np.uint8))
    kept = [old for old in model.metadata or [] if old.name != entry.name]
    model.metadata = [*kept, entry]


def name_interface(model: ModelEntry, *, input: str, output: str) -> None:
    """Plain names for the one input and the one output."""
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = input.encode()
    graph.tensors[graph.outputs[0]].name = output.encode()


def set_io(model: ModelEntry, io: Io) -> None:
    """Give a file with INT8 input and output those of type `io`; a side that is float already stays."""
    graph, types = model.subgraphs[0], schema().TensorType
    if io == "int8":
        return
    if graph.tensors[graph.inputs[0]].type == types.INT8:
        inner = graph.inputs[0]
        graph.inputs = [_outside(graph, inner, io)]
        _rename_signature(model, inner, graph.inputs[0])
        graph.operators.insert(0, _conversion(model, "QUANTIZE", graph.inputs[0], inner))
    if graph.tensors[graph.outputs[0]].type == types.INT8:
        inner = graph.outputs[0]
        graph.outputs = [_outside(graph, inner, io)]
        _rename_signature(model, inner, graph.outputs[0])
        kind = "DEQUANTIZE" if io == "float32" else "QUANTIZE"
        graph.operators.append(_conversion(model, kind, inner, graph.outputs[0]))


def _outside(graph: GraphEntry, inner: int, io: Io) -> int:
    """Index of a new tensor that takes over the name of `inner`."""
    old: TensorEntry = graph.tensors[inner]
    new = schema().TensorT()
    new.name, new.shape, new.shapeSignature = old.name, old.shape, old.shapeSignature
    new.type = getattr(schema().TensorType, io.upper())
    old.name = (old.name or b"") + b"_int8"
    if io == "uint8" and old.quantization is not None:
        new.quantization = schema().QuantizationParametersT()
        new.quantization.scale = old.quantization.scale
        new.quantization.zeroPoint = [int(point) + _SHIFT for point in old.quantization.zeroPoint or [0]]
    graph.tensors.append(new)
    return len(graph.tensors) - 1


def _conversion(model: ModelEntry, kind: str, source: int, result: int) -> OperatorEntry:
    operator: OperatorEntry = schema().OperatorT()
    # Version 2 of DEQUANTIZE reads int8; QUANTIZE from uint8 to int8 is version 1 (TensorFlow's op_version.cc).
    operator.opcodeIndex = new_code(model, kind, 2 if kind == "DEQUANTIZE" else 1)
    operator.inputs, operator.outputs = [source], [result]
    return operator


def _rename_signature(model: ModelEntry, inner: int, outside: int) -> None:
    """Signatures name the tensors that callers see."""
    for signature in model.signatureDefs or []:
        for entry in (*(signature.inputs or []), *(signature.outputs or [])):
            if entry.tensorIndex == inner:
                entry.tensorIndex = outside
