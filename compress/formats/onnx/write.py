"""Saving a graph as one self-contained, checked ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx.checker
import onnx.helper
import onnx_ir as ir

import compress
from compress.core.errors import StageError
from compress.formats.onnx.metadata import PRODUCER
from compress.support.quiet import first_line

__all__ = ["read", "write_checked"]

_OLDEST_IR_VERSION = 8
"""ONNX 1.10 (2021): read by ONNX Runtime 1.9 and TensorRT 8.2 on; newer opsets ask for newer ones."""

_PROTOBUF_LIMIT_BYTES = 2**31 - 1


def read(path: Path) -> ir.Model:
    """The graph of an ONNX file.

    Raises:
        StageError: the file is not an ONNX model.
    """
    try:
        return ir.serde.deserialize_model(onnx.load(path))
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError and whatever a damaged graph sets off
        raise StageError(f"{path} is not a readable ONNX file: {first_line(error)}", fix="export it again") from error


def write_checked(model: ir.Model, path: Path, metadata: Mapping[str, str]) -> None:
    """Write `model` with `metadata` to `path`, all weights inside, and prove it well-formed (types, shapes, opset).

    Raises:
        StageError: the model is not valid ONNX, has float64 weights, or is 2 GiB or larger.
    """
    _refuse_float64(model)
    model.ir_version = _ir_version(model.opset_imports[""])
    model.producer_name, model.producer_version = PRODUCER, compress.__version__
    model.domain = model.doc_string = None
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    proto = ir.serde.serialize_model(model)
    del proto.graph.value_info[:]  # shapes of inner values: every parser derives them
    if proto.ByteSize() > _PROTOBUF_LIMIT_BYTES:
        raise StageError(f"the model is {proto.ByteSize()} bytes, a single ONNX file holds less than 2 GiB")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"the exported graph is not valid ONNX: {first_line(error)}") from error
    onnx.save(proto, path)


def _ir_version(opset: int) -> int:
    return max(_OLDEST_IR_VERSION, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))


def _refuse_float64(model: ir.Model) -> None:
    for name, value in model.graph.initializers.items():
        if value.dtype is ir.DataType.DOUBLE:
            raise StageError(f"constant {name!r} is float64, which device runtimes lack", fix="make it float32")
