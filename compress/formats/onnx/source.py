"""An `.onnx` file as the model: checked, held against the declared input, run once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import ModelError
from compress.formats.onnx.external_data import check_external_data
from compress.formats.onnx.sizes import check_stored_tensors, require_small_values
from compress.graph.activation_bytes import widest_node
from compress.graph.probe import does_not_take, probe
from compress.graph.sound import refuse_unsound_graph
from compress.support.quiet import first_line
from compress.support.reading import unreadable

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default in Linux wheels since 1.29
import onnxruntime

onnxruntime.set_default_logger_severity(3)

__all__ = ["graph_precision", "load_onnx", "run_once"]

_LARGEST = 2**31
"""Bytes of a protobuf message, whose length has 32 bits and a sign."""

_QUANTIZED = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
_COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def load_onnx(path: Path, input: InputSpec) -> Artifact:
    """The file as an artifact; nothing is converted or copied.

    Raises:
        ModelError: missing, truncated, not ONNX, not one float image in and one `[N, classes]` out, or it does not run.
    """
    model = _read(path)
    dynamic = _check_input(model.graph, input, path)
    refuse_unsound_graph(model.graph, str(path))
    dynamic = _probe(path, input) and dynamic
    precision, widest = graph_precision(model.graph), widest_node(model)
    return Artifact(Format.ONNX, path, precision, input, dynamic_batch=dynamic, activation_bytes=widest)


def _read(path: Path) -> onnx.ModelProto:
    if (reason := unreadable(path)) is not None:
        raise ModelError(f"model file {path} cannot be read: {reason}", fix="model.path=<file>")
    try:
        if path.stat().st_size > _LARGEST:
            raise ModelError(f"model file {path} has more than 2 GiB", fix="use a smaller model")
        stored = onnx.load(path, load_external_data=False)
        check_external_data(stored, path)
        check_stored_tensors(stored, path)
        model = onnx.load(path)
        onnx.checker.check_model(path, full_check=True)
    except (
        DecodeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
        OSError,
    ) as error:
        raise ModelError(
            f"model file {path} is truncated or not a valid ONNX model: {first_line(error)}", fix="export it again"
        ) from error
    if not model.graph.node:  # an empty file parses as an empty message
        raise ModelError(f"model file {path} is not an ONNX model: it has no graph", fix="export it again")
    return model


def _check_input(graph: onnx.GraphProto, input: InputSpec, path: Path) -> bool:
    """Tell whether the batch is free; raises `ModelError` unless the input is the declared image."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise ModelError(f"{path} has {len(inputs)} inputs, not one image", fix="export a model of one image")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ModelError(f"{path} takes {kind} input, not float32", fix="export it with a float32 input")
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    fits = len(shape) == 4 and all(
        size in (None, expected) for size, expected in zip(shape[1:], input.shape, strict=False)
    )
    if not fits or shape[0] not in (None, 1):
        text = [size if size is not None else "any" for size in shape]
        raise ModelError(
            f"{path} takes the shape {text} but the declared input is [1 or any, {', '.join(map(str, input.shape))}]",
            fix="set model.input.shape, or export it with channels first and a batch of one or a free batch",
        )
    return shape[0] is None


def run_once(path: Path, input: InputSpec, most_bytes: int) -> None:
    """Read a file and run it on a blank image, with one thread.

    Raises:
        ModelError: as `load_onnx`, it fails on the image, or a value in it takes more than `most_bytes`.
    """
    model = _read(path)
    _check_input(model.graph, input, path)
    require_small_values(model, path, most_bytes)
    session = _session(path, threads=1)
    try:
        session.run(None, {session.get_inputs()[0].name: np.zeros((1, *input.shape), np.float32)})
    except Exception as error:  # onnxruntime's errors share no public base class
        failure = does_not_take(input, error)
        raise ModelError(f"{path}: {failure.problem}", fix=failure.fix) from error


def _session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = threads == 0  # it takes twice what is needed, for speed
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        raise ModelError(f"{path} is not run by ONNX Runtime: {first_line(error)}", fix="export it again") from error


def _probe(path: Path, input: InputSpec) -> bool:
    """Tell whether batches give what their images give alone; raises `ModelError` unless the file computes logits."""
    session = _session(path)
    name = session.get_inputs()[0].name

    def run(images: NDArray[np.float32]) -> object:
        outputs = session.run(None, {name: images})
        shapes = [list(np.shape(output)) for output in outputs]
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != len(images):
            raise ModelError(
                f"it returns the shapes {shapes}, not [1, classes]", fix="export a classifier's logits only"
            )
        return torch.from_numpy(outputs[0])

    try:
        return probe(run, input)
    except ModelError as error:
        raise ModelError(f"{path}: {error.problem}", fix=error.fix) from error


def graph_precision(graph: onnx.GraphProto) -> Precision:
    """Return the precision of the compute-heavy layers, from the operators and the types of their weights."""
    if any(node.op_type in _QUANTIZED for node in graph.node):
        return Precision.INT8
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = [types[name] for node in graph.node if node.op_type in _COMPUTE for name in node.input if name in types]
    half = sum(kind == onnx.TensorProto.FLOAT16 for kind in weights)
    return Precision.FP16 if half * 2 > len(weights) else Precision.FP32
