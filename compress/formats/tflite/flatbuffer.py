"""Reading and writing the FlatBuffer behind a `.tflite` file.

Schema: https://github.com/google-ai-edge/LiteRT, `tflite/converter/schema/schema.fbs`. The classes that flatc made of
it come with the package `ai-edge-litert`. They have no types; the protocols here are what is used of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from compress.core.errors import MissingExtra, ModelError
from compress.support.quiet import first_line
from compress.support.reading import unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CONSTANT_ALIGNMENT",
    "BufferEntry",
    "CodeEntry",
    "GraphEntry",
    "MetadataEntry",
    "ModelEntry",
    "OperatorEntry",
    "QuantizationEntry",
    "TensorEntry",
    "constant_of",
    "kind_name",
    "new_code",
    "new_constant",
    "operator_code",
    "pack",
    "schema",
    "shape_of",
    "type_name",
    "unpack",
    "verified",
]

CONSTANT_ALIGNMENT = 16
"""Bytes that constants are aligned to: `force_align: 16` in the schema, which flatc's Python code does not honour."""

_IDENTIFIER = b"TFL3"


class BufferEntry(Protocol):
    """`BufferT`: bytes of a constant; the first buffer of a file is empty and stands for "none"."""

    data: NDArray[np.uint8] | None
    offset: int
    size: int


class CodeEntry(Protocol):
    """`OperatorCodeT`: kind and version that operators point to. Readers before 2020 know the deprecated code only."""

    builtinCode: int  # noqa: N815  # the schema's names, as flatc writes them
    deprecatedBuiltinCode: int  # noqa: N815
    customCode: bytes | None  # noqa: N815
    version: int


class QuantizationEntry(Protocol):
    """`QuantizationParametersT`."""

    scale: Sequence[float] | None
    zeroPoint: Sequence[int] | None  # noqa: N815
    quantizedDimension: int  # noqa: N815


class TensorEntry(Protocol):
    """`TensorT`."""

    shape: Sequence[int] | None
    shapeSignature: Sequence[int] | None  # noqa: N815
    type: int
    buffer: int
    name: bytes | None
    quantization: QuantizationEntry | None


class OperatorEntry(Protocol):
    """`OperatorT`; absent inputs are -1."""

    opcodeIndex: int  # noqa: N815
    inputs: Sequence[int]
    outputs: Sequence[int]
    builtinOptionsType: int  # noqa: N815
    builtinOptions: object  # noqa: N815
    intermediates: Sequence[int] | None


class GraphEntry(Protocol):
    """`SubGraphT`."""

    tensors: list[TensorEntry]
    inputs: list[int]
    outputs: list[int]
    operators: list[OperatorEntry]


class MetadataEntry(Protocol):
    """`MetadataT`: a named buffer."""

    name: bytes
    buffer: int


class _TensorName(Protocol):
    tensorIndex: int  # noqa: N815


class SignatureEntry(Protocol):
    """`SignatureDefT`: names for callers; of the main graph, in the files read here."""

    inputs: list[_TensorName] | None
    outputs: list[_TensorName] | None


class ModelEntry(Protocol):
    """`ModelT`, the root of a file."""

    operatorCodes: list[CodeEntry]  # noqa: N815
    subgraphs: list[GraphEntry]
    buffers: list[BufferEntry]
    metadata: list[MetadataEntry] | None
    signatureDefs: list[SignatureEntry] | None  # noqa: N815
    description: bytes | None

    def Pack(self, builder: object) -> int: ...  # noqa: N802


@cache
def schema() -> ModuleType:
    """The classes generated from the schema.

    Raises:
        MissingExtra: `ai-edge-litert` is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingExtra("ai-edge-litert", extra="tflite", needed_for="reading and writing .tflite files") from error
    module: ModuleType = schema_py_generated
    return module


def verified(path: Path) -> bytes:
    """The content of a file that is a whole TFLite FlatBuffer.

    Raises:
        ModelError: it is missing, truncated or something else. LiteRT's own verifier looks at every offset, which
            Python's reader would follow blindly.
    """
    schema()
    from ai_edge_litert.interpreter import Interpreter

    if (reason := unreadable(path)) is not None:
        raise ModelError(f"{path} cannot be read: {reason}", fix="name a .tflite file")
    content = path.read_bytes()
    if content[4:8] != _IDENTIFIER:
        raise ModelError(
            f"{path} is not a TFLite file: it lacks the mark {_IDENTIFIER.decode()!r}", fix="convert again"
        )
    try:
        Interpreter(model_content=content)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} is truncated or not a valid TFLite file: {first_line(error)}", fix="convert it again"
        ) from error
    return content


def unpack(content: bytes) -> ModelEntry:
    """The model with every constant inline, wherever the writer put it.

    Writers may append constants behind the FlatBuffer and store an offset (`Buffer.offset`), which runtimes before 2.14
    and the Edge TPU compiler do not know.
    """
    model = cast("ModelEntry", schema().ModelT.InitFromPackedBuf(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0 and 1 mean "not used"
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def pack(model: ModelEntry) -> bytes:
    """The file that holds `model`, constants aligned for vector instructions."""
    import flatbuffers

    for buffer in model.buffers:
        buffer.__class__ = _aligned_buffer()
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def constant_of(model: ModelEntry, tensor: TensorEntry) -> NDArray[np.uint8] | None:
    """The raw bytes of a constant tensor; None for one that is computed."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)


def operator_code(code: CodeEntry) -> int:
    """The member of `BuiltinOperator`, whichever of the two fields its writer filled."""
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def shape_of(tensor: TensorEntry) -> tuple[int, ...]:
    """Sizes of a tensor; empty for a scalar."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def kind_name(code: CodeEntry) -> str:
    """`CONV_2D`, or what a custom operator calls itself."""
    number = operator_code(code)
    if number == schema().BuiltinOperator.CUSTOM:
        return (code.customCode or b"CUSTOM").decode(errors="replace")
    return _names("BuiltinOperator").get(number, f"operator {number}")


def type_name(number: int) -> str:
    """`int8`, `float32`, ... for a value of `TensorType`."""
    return _names("TensorType").get(number, f"type {number}").lower()


@cache
def _names(enumeration: str) -> dict[int, str]:
    members = vars(getattr(schema(), enumeration))
    return {number: name for name, number in members.items() if isinstance(number, int)}


@cache
def _aligned_buffer() -> type:
    """`BufferT` whose data is aligned as the schema asks."""
    generated = schema()

    class AlignedBuffer(generated.BufferT):  # type: ignore[name-defined]
        def Pack(self, builder):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, N802  # flatc's name
            data = None if self.data is None else np.ascontiguousarray(self.data, np.uint8)
            if data is not None:
                builder.StartVector(1, len(data), CONSTANT_ALIGNMENT)
                builder.head -= len(data)
                builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
                vector = builder.EndVector()
            generated.BufferStart(builder)
            if data is not None:
                generated.BufferAddData(builder, vector)
            return generated.BufferEnd(builder)

    return AlignedBuffer


def new_code(model: ModelEntry, kind: str, version: int) -> int:
    """Index of a new operator code; `legalize` merges equal ones."""
    code: CodeEntry = schema().OperatorCodeT()
    code.builtinCode, code.version = getattr(schema().BuiltinOperator, kind), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def new_constant(model: ModelEntry, values: NDArray[np.generic]) -> int:
    """Index of a new buffer with the bytes of `values`."""
    buffer: BufferEntry = schema().BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1
