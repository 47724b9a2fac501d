"""Weights that lie beside an ONNX file (`torch.onnx.export` writes them so by default): checked, and put into the file.

A file may come from a stranger, so nothing of it is read before every place it names is a plain file below its own
folder and holds as many bytes as the tensor's shape says.
https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx.external_data_helper import uses_external_data

from compress.core.errors import ModelError
from compress.support.files import write_bytes

__all__ = ["check_external_data", "embedded", "external_files", "stored_tensors"]

_PROTOBUF_LIMIT_BYTES = 2**31 - 1  # a message has a signed 32-bit length


def check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Hold what `model`, read from `path` without its external data, says about that data against the files.

    Raises:
        ModelError: a location outside the folder, absolute or a link; a missing or short file; a length that is not the
            tensor's; or more in all than one ONNX file can hold.
    """
    total = path.stat().st_size
    for tensor in _external(model):
        total += _checked_bytes(tensor, path)
    if total > _PROTOBUF_LIMIT_BYTES:
        raise ModelError(
            f"{path} has {total / 2**30:.1f} GiB with its external data; 2 GiB is the most that can be compressed here",
            fix="bring a smaller model",
        )


def embedded(path: Path, folder: Path) -> Path:
    """`path`, or if it has external data a file of the same name in `folder`, by its content, that has none.

    The external data must have been checked.

    Raises:
        StageError: `folder` cannot be written.
    """
    if not any(_external(onnx.load(path, load_external_data=False))):
        return path
    content = onnx.load(path).SerializeToString(deterministic=True)
    whole = folder / hashlib.sha256(content).hexdigest() / path.name
    write_bytes(whole, content)
    return whole


def external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold its tensors, each once, in the order of the tensors.

    Args:
        model: read from `path` without its external data.

    Raises:
        ModelError: a location that is no plain file below the folder of `path`.
    """
    named = ((_location(tensor), tensor.name) for tensor in _external(model))
    return tuple(dict.fromkeys(_file(location, name, path) for location, name in named))


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def stored_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, those of attributes, subgraphs and functions too."""
    return itertools.chain(_of_graph(model.graph), *(_of_nodes(function.node) for function in model.functions))


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Those that are stored elsewhere."""
    return filter(uses_external_data, stored_tensors(model))


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _of_graph(graph)


def _checked_bytes(tensor: onnx.TensorProto, path: Path) -> int:
    """Length of one tensor's data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _file(_location(tensor), tensor.name, path)
    offset = _number(entries.get("offset", "0"), tensor.name, path)
    length = _number(entries["length"], tensor.name, path) if "length" in entries else file.stat().st_size - offset
    expected = _stored_bytes(tensor, path)
    if length != expected:
        raise _refused(path, tensor.name, f"declares {length} bytes of external data for a tensor of {expected}")
    if offset + length > file.stat().st_size:
        problem = f"needs bytes {offset} to {offset + length} of {file.name}, which has {file.stat().st_size}"
        raise _refused(path, tensor.name, problem)
    return length


def _file(location: str, name: str, path: Path) -> Path:
    """The plain file below the model's folder that `location` names."""
    parts = PurePosixPath(location).parts
    if not parts or location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\\" in location:
        raise _refused(path, name, f"lies at {location!r}, outside the folder of the model")
    file = path.parent
    for part in parts:
        file = file / part
        if file.is_symlink():
            raise _refused(path, name, f"lies behind the link {location!r}")
    if not file.is_file():
        raise _refused(path, name, f"lies in {location!r}, which does not exist beside the model")
    return file


def _number(text: str, name: str, path: Path) -> int:
    if not text.isascii() or not text.isdigit():
        raise _refused(path, name, f"has {text[:40]!r} for an offset or a length")
    return int(text)


def _stored_bytes(tensor: onnx.TensorProto, path: Path) -> int:
    """Bytes of a tensor by its shape and type; elements of less than 8 bits are packed."""
    if any(size < 0 for size in tensor.dims):
        raise _refused(path, tensor.name, f"has the shape {list(tensor.dims)}")
    packed = {
        getattr(onnx.TensorProto, kind): bits
        for kind, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
        if hasattr(onnx.TensorProto, kind)
    }
    try:
        bits = packed.get(tensor.data_type) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise _refused(path, tensor.name, f"has elements of type {tensor.data_type}") from error
    return int(-(-math.prod(tensor.dims) * bits // 8))


def _refused(path: Path, name: str, problem: str) -> ModelError:
    return ModelError(
        f"the tensor {name!r} of {path} {problem}",
        fix="export the model again, with its data files beside it (or with external_data=False)",
    )
