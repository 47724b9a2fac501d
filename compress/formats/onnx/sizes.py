"""The sizes that an ONNX file declares, held against what it stores and what there may be, before any memory is taken.

A `Pad`, `Expand`, `ConstantOfShape` or `Tile` of a few bytes makes a tensor of any size, and a stored tensor may say
that it is larger than its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx.external_data_helper import uses_external_data

from compress.core.errors import ModelError
from compress.formats.onnx.external_data import stored_tensors

__all__ = ["check_stored_tensors", "require_small_values"]

_PACKED_BITS = {
    getattr(onnx.TensorProto, kind): bits
    for kind, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, kind)
}
"""Elements that share a byte; onnx.proto, `TensorProto.int32_data`."""
_COMPLEX = frozenset({onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128})
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_SHOWN = 80  # characters of a name


def check_stored_tensors(model: onnx.ModelProto, path: Path) -> None:
    """Hold the shape of every tensor in the file against the numbers that are stored of it.

    Raises:
        ModelError: they are not as many; names the tensor.
    """
    for tensor in stored_tensors(model):
        if not uses_external_data(tensor):
            _check(tensor, path)


def require_small_values(model: onnx.ModelProto, path: Path, most_bytes: int) -> None:
    """Infer what every node makes of one image, and refuse what is too large; what cannot be inferred is passed over.

    Raises:
        ModelError: a value takes more than `most_bytes`; names the node.
    """
    for sparse in model.graph.sparse_initializer:
        if math.prod(sparse.dims) * _element_bytes(sparse.values.data_type) > most_bytes:
            raise _too_large(f"{path}: the sparse tensor {sparse.values.name[:_SHOWN]!r}", sparse.dims, most_bytes)
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):  # ONNX Runtime says it in its own words
        return
    makers = {name: node for node in graph.node for name in node.output}
    for value in (*graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes = [int(size.dim_value) if size.HasField("dim_value") else 1 for size in kind.shape.dim]
        if value.name in makers and math.prod(sizes) * _element_bytes(kind.elem_type) > most_bytes:
            node = makers[value.name]
            raise _too_large(f"{path}: the node {node.name[:_SHOWN]!r} ({node.op_type[:_SHOWN]})", sizes, most_bytes)


def _too_large(source: str, sizes: Sequence[int], most_bytes: int) -> ModelError:
    return ModelError(
        f"{source} makes a tensor of shape {list(sizes)}, more than {most_bytes / 2**30:g} GiB",
        fix="check its sizes, or raise model.memory_limit=<GiB>",
    )


def _check(tensor: onnx.TensorProto, path: Path) -> None:
    name = f"the tensor {tensor.name[:_SHOWN]!r} of {path}"
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{name} has the shape {list(tensor.dims)}", fix="export the model again")
    if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
        raise ModelError(f"{name} has elements of type {tensor.data_type}", fix="export the model again")
    stored, expected = _stored_and_expected(tensor)
    if stored != expected:
        raise ModelError(
            f"{name} stores {stored} bytes or numbers, not the {expected} of its shape {list(tensor.dims)[:8]}",
            fix="export the model again",
        )


def _stored_and_expected(tensor: onnx.TensorProto) -> tuple[int, int]:
    """Bytes, or entries of the field of numbers: what there is, and what the shape asks for."""
    elements = math.prod(tensor.dims)
    bits = _PACKED_BITS.get(tensor.data_type, 8)
    if tensor.HasField("raw_data"):
        size = 1 if tensor.data_type in _PACKED_BITS else _element_bytes(tensor.data_type)
        return len(tensor.raw_data), -(-elements * bits * size // 8)
    entries = sum(len(getattr(tensor, field)) for field in _FIELDS)
    return entries, -(-elements * bits // 8) * (2 if tensor.data_type in _COMPLEX else 1)


def _element_bytes(kind: int) -> int:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize) or 1
    except KeyError:
        return 1
