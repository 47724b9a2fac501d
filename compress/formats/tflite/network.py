"""Contents of a `.tflite` file as plain data: checker, preflight and measurements read this and no schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from compress.core.artifact import Port
from compress.core.errors import ModelError
from compress.formats.tflite.flatbuffer import (
    ModelEntry,
    OperatorEntry,
    QuantizationEntry,
    TensorEntry,
    constant_of,
    kind_name,
    type_name,
    unpack,
    verified,
)
from compress.support.quiet import first_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Network", "Operator", "Quantization", "Tensor", "network_of", "parse_network", "read_network"]

T = TypeVar("T", int, float)
_DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "bool": np.bool_,
}


@dataclass(frozen=True)
class Quantization:
    """`real = scale (stored - zero_point)`, with one pair for the tensor or one for each index along `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the graph.

    Attributes:
        dtype: `int8`, `float32`, ...
        shape: with -1 where a size is left open.
        constant: stored values, in `shape`; None for a tensor that is computed.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None
    constant: NDArray[np.generic] | None

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith(("float", "bfloat"))

    @property
    def port(self) -> Port:
        """Port by which a caller feeds or reads it."""
        grid = self.quantization
        scale, zero_point = (grid.scale[0], grid.zero_point[0]) if grid else (None, None)
        return Port(self.name, self.dtype, self.shape, scale, zero_point)

    @property
    def label(self) -> str:
        """`conv1/Relu int8 [1, 32, 32, 16]`; converters join names with `;`, of which the last part is enough."""
        parts = [part for part in self.name.split(";") if part and not part.isdigit()]
        return f"{(parts or ['tensor'])[-1][-60:]!r} {self.dtype} {list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator in execution order; `options` as the schema names them, `inputs` without the absent ones."""

    index: int
    kind: str
    version: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, int | float | bool]

    @property
    def label(self) -> str:
        """`operator 12 CONV_2D`."""
        return f"operator {self.index} {self.kind}"

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """The inputs that are computed."""
        return tuple(tensor for tensor in self.inputs if tensor.constant is None)


@dataclass(frozen=True, eq=False)
class Network:
    """The main graph of a file.

    Attributes:
        subgraphs: number of graphs in the file; more than one means control flow.
        metadata: entries by name.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    subgraphs: int
    metadata: Mapping[str, bytes]

    @cached_property
    def makers(self) -> dict[int, Operator]:
        """The operator that computes each tensor, by tensor index."""
        return {tensor.index: operator for operator in self.operators for tensor in operator.outputs}


def read_network(path: Path) -> Network:
    """Read a file.

    Raises:
        ModelError: it is missing, truncated, not TFLite, or refers to tensors or constants it has not.
        MissingExtra: `ai-edge-litert` is not installed.
    """
    content = verified(path)
    try:
        return parse_network(content)
    except (
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # the verifier checks offsets, not indices
        raise ModelError(
            f"{path} is damaged: it refers to something it does not hold ({first_line(error)})", fix="convert it again"
        ) from error


def parse_network(content: bytes) -> Network:
    """The network in the bytes of a whole file."""
    return network_of(unpack(content))


def network_of(model: ModelEntry) -> Network:
    """The network that an unpacked file holds as it is now."""
    graph = model.subgraphs[0]
    tensors = tuple(_tensor(model, index, tensor) for index, tensor in enumerate(graph.tensors))
    return Network(
        inputs=tuple(tensors[index] for index in graph.inputs),
        outputs=tuple(tensors[index] for index in graph.outputs),
        tensors=tensors,
        operators=tuple(_operator(model, index, entry, tensors) for index, entry in enumerate(graph.operators)),
        subgraphs=len(model.subgraphs),
        metadata=_metadata(model),
    )


def _tensor(model: ModelEntry, index: int, tensor: TensorEntry) -> Tensor:
    dtype = type_name(tensor.type)
    sizes = _list(tensor.shapeSignature) or _list(tensor.shape)
    raw = constant_of(model, tensor)
    known = _DTYPES.get(dtype)
    constant: NDArray[np.generic] | None = None
    if raw is not None and known is not None:
        constant = np.frombuffer(raw.tobytes(), known).reshape([int(size) for size in sizes])
    return Tensor(
        index=index,
        name=(tensor.name or b"").decode(errors="replace"),
        dtype=dtype,
        shape=tuple(int(size) for size in sizes),
        quantization=_quantization(tensor.quantization),
        constant=constant,
    )


def _quantization(entry: QuantizationEntry | None) -> Quantization | None:
    scale = [] if entry is None else _list(entry.scale)
    if entry is None or not scale:
        return None
    zero_point = _list(entry.zeroPoint) or [0] * len(scale)
    axis = int(entry.quantizedDimension)
    return Quantization(tuple(float(value) for value in scale), tuple(int(value) for value in zero_point), axis)


def _operator(model: ModelEntry, index: int, entry: OperatorEntry, tensors: Sequence[Tensor]) -> Operator:
    code = model.operatorCodes[entry.opcodeIndex]
    options = vars(entry.builtinOptions) if entry.builtinOptions is not None else {}
    return Operator(
        index=index,
        kind=kind_name(code),
        version=int(code.version),
        inputs=tuple(tensors[i] for i in _list(entry.inputs) if i >= 0),
        outputs=tuple(tensors[i] for i in _list(entry.outputs)),
        options={name: value for name, value in options.items() if isinstance(value, (bool, int, float))},
    )


def _metadata(model: ModelEntry) -> dict[str, bytes]:
    entries = model.metadata or []
    buffers = model.buffers
    return {
        entry.name.decode(errors="replace"): bytes(data)
        for entry in entries
        if (data := buffers[entry.buffer].data) is not None
    }


def _list(values: Sequence[T] | None) -> list[T]:
    return [] if values is None else list(values)
