"""Bytes of an artifact as stored, and compressed the way a download or a flash image would be."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Size", "file_size", "module_size", "safetensors_chunks", "stored_tensors"]

_CHUNK_BYTES = 1 << 20
_GZIP_LEVEL = 6  # gzip's own default; fixed so that sizes compare across runs and machines
_HEADER_ALIGNMENT = 8  # safetensors pads its JSON header with spaces to this (format specification)
_DTYPE_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class Size:
    """Bytes as stored, and after gzip level 6 without a time stamp."""

    size_bytes: int
    gzip_bytes: int


def file_size(paths: Iterable[Path]) -> Size:
    """Size of a file, or of several that belong together; read in chunks of 1 MiB."""
    return _measure(chunk for path in paths for chunk in _file_chunks(path))


def module_size(module: nn.Module) -> Size:
    """Size that the module's tensors have as one safetensors file, without writing it.

    Parameters and buffers count; tensors shared between layers count once, and a captured graph counts only the
    tensors it reads.
    """
    return _measure(safetensors_chunks(stored_tensors(module)))


def stored_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors a state-dict file of `module` needs, each storage once, under its first name."""
    from torch.fx import GraphModule

    from compress.graph.weights import graph_tensors, named_tensors

    named = graph_tensors(module) if isinstance(module, GraphModule) else named_tensors(module)
    distinct: dict[tuple[object, ...], str] = {}
    for name, tensor in named.items():
        distinct.setdefault((tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride(), tensor.dtype), name)
    return {name: named[name] for name in distinct.values()}


def safetensors_chunks(tensors: dict[str, torch.Tensor]) -> Iterator[bytes]:
    """The bytes of a safetensors file, one tensor at a time: header length (u64), JSON header, little-endian data.

    Identical to what the `safetensors` package writes (widest element type first, then by name), which would need a
    second copy of the whole model in memory.
    """
    order = sorted(tensors, key=lambda name: (-_type_rank(tensors[name]), name))
    header: dict[str, dict[str, object]] = {}
    position = 0
    for name in order:
        tensor = tensors[name]
        end = position + tensor.numel() * tensor.element_size()
        dtype = _DTYPE_NAMES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield _tensor_bytes(tensors[name])


def _type_rank(tensor: torch.Tensor) -> int:
    """Order of element types in the file: by width, then as the format's specification lists them."""
    listed = ["BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64"]
    return listed.index(_DTYPE_NAMES[str(tensor.dtype).removeprefix("torch.")])


def _tensor_bytes(tensor: torch.Tensor) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().tobytes()


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


class _Counter(io.RawIOBase):
    """A file that keeps only its length."""

    length = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        written = memoryview(data).nbytes  # type: ignore[arg-type]  # any buffer, as the base class accepts
        self.length += written
        return written


def _measure(chunks: Iterable[bytes]) -> Size:
    counter = _Counter()
    size = 0
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=counter, mtime=0) as compressed:
        for chunk in chunks:
            size += len(chunk)
            compressed.write(chunk)
    return Size(size, counter.length)
