"""Operator versions: the one that what an operator does asks for, and the oldest runtime that has it.

A runtime refuses a version that its registration does not list, whatever the operator does; a version that is too low
promises semantics that an old kernel has not. Sources, both of TensorFlow Lite:
`tensorflow/lite/tools/versioning/op_version.cc` (v2.14.0) for the versions and `runtime_version.cc` beside it for the
runtimes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from compress.formats.tflite.network import Operator, Tensor

__all__ = ["AFTER_TFLITE_RUNTIME", "is_older", "minimum_runtime", "needed_version", "runtime_of"]

AFTER_TFLITE_RUNTIME = "2.15.0"
"""Stands for "no tflite-runtime has it": 2.14.0 is the last release, and registers no operator of StableHLO."""

_INT8 = {
    **dict.fromkeys(("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "LEAKY_RELU", "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM"), 2),
    **dict.fromkeys(("MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "PACK", "PAD", "PADV2", "REDUCE_MAX"), 2),
    **dict.fromkeys(
        ("REDUCE_MIN", "RELU", "RELU6", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SOFTMAX"), 2
    ),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPLIT", "SPLIT_V", "STRIDED_SLICE", "SUB", "SUM", "TANH"), 2),
    **dict.fromkeys(("TRANSPOSE", "TRANSPOSE_CONV", "UNPACK", "ABS", "GATHER", "BATCH_MATMUL", "L2_NORMALIZATION"), 2),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "BROADCAST_TO", "REVERSE_V2"), 3),
    **dict.fromkeys(("RESHAPE", "HARD_SWISH", "PRELU", "ELU", "EXPAND_DIMS", "QUANTIZE"), 1),
    "FULLY_CONNECTED": 4,
    "DEQUANTIZE": 2,
}
"""Oldest version with an INT8 kernel; what an operator's options and sizes ask beyond it is in `_beyond`."""

_WIDER = {
    "TRANSPOSE": {5: 4, 6: 6},
    "STRIDED_SLICE": {5: 4},
    "SLICE": {5: 5},
    "PAD": {5: 4},
    "PADV2": {5: 4},
    "SUB": {5: 3},
    "MAXIMUM": {5: 3},
    "MINIMUM": {5: 3},
}
"""Versions of those that are newer from a rank on."""

_RUNTIMES = {
    "1.14.0": "ADD.2 AVERAGE_POOL_2D.2 CONCATENATION.2 CONV_2D.3 DEPTHWISE_CONV_2D.3 DEQUANTIZE.2 ELU.1 EXPAND_DIMS.1 "
    "FULLY_CONNECTED.4 GATHER.2 L2_NORMALIZATION.2 LOGISTIC.2 LOG_SOFTMAX.2 MAXIMUM.2 MAX_POOL_2D.2 MEAN.2 MINIMUM.2 "
    "MUL.2 PACK.2 PAD.2 PADV2.2 PRELU.1 QUANTIZE.1 REDUCE_MAX.2 REDUCE_MIN.2 RELU6.2 RESHAPE.1 RESIZE_BILINEAR.2 "
    "RESIZE_NEAREST_NEIGHBOR.2 SLICE.2 SOFTMAX.2 SPACE_TO_DEPTH.2 SPLIT.2 STRIDED_SLICE.2 SUB.2 TANH.2 TRANSPOSE.2 "
    "UNPACK.2",
    "1.15.0": "DEQUANTIZE.3 HARD_SWISH.1 MUL.3 SUM.2",
    "2.0.0": "FULLY_CONNECTED.5",
    "2.1.0": "FULLY_CONNECTED.6 RELU.2",
    "2.2.0": "RESIZE_BILINEAR.3 SELECT_V2.1 STRIDED_SLICE.4 TILE.2 TRANSPOSE_CONV.2",
    "2.3.0": "BATCH_MATMUL.2 DEPTHWISE_CONV_2D.6 LEAKY_RELU.2 MAXIMUM.3 MINIMUM.3 MIRROR_PAD.2 "
    "RESIZE_NEAREST_NEIGHBOR.3 SPLIT_V.2 SUB.3 TRANSPOSE.4 TRANSPOSE_CONV.3",
    "2.4.0": "ABS.2 CONV_2D.5",
    "2.5.0": "BROADCAST_TO.3 DEPTH_TO_SPACE.2 REVERSE_V2.3 SLICE.5",
    "2.6.0": "PAD.4 PADV2.4 STRIDED_SLICE.6",
    "2.7.0": "DEQUANTIZE.5 QUANTIZE.3",
    "2.8.0": "TILE.3",
    "2.9.0": "CONV_2D.6 GELU.1 GELU.2",
}
_RUNTIME = {entry: runtime for runtime, entries in _RUNTIMES.items() for entry in entries.split()}


def needed_version(operator: Operator) -> int | None:
    """The version of an INT8 operator; None where that is not known here (other types, per-channel matrices)."""
    base = _INT8.get(operator.kind)
    ends = (*_data(operator)[:1], *operator.outputs[:1])
    if operator.kind in ("QUANTIZE", "DEQUANTIZE"):
        known = {tensor.dtype for tensor in ends} <= {"int8", "uint8", "float32"}
        scales = [tensor.quantization.scale for tensor in ends if tensor.quantization]
        base = base if known and all(len(scale) == 1 for scale in scales) else None
    elif not all(tensor.dtype == "int8" for tensor in ends):
        return None
    if base is None or _is_matrix_of_several_scales(operator):
        return None
    rank = max((len(tensor.shape) for tensor in (*operator.inputs, *operator.outputs)), default=0)
    if operator.kind in ("ADD", "MUL") and rank > 4:  # broadcasting there came without a number of its own
        return None
    wider = [version for least, version in _WIDER.get(operator.kind, {}).items() if rank >= least]
    return max([base, *wider, _beyond(operator)])


def minimum_runtime(operators: Iterable[Operator]) -> str:
    """The oldest version of TensorFlow Lite's runtime that loads them all, as far as its own table tells."""
    return max((runtime_of(operator) for operator in operators), key=_numbers, default="1.14.0")


def runtime_of(operator: Operator) -> str:
    """The oldest runtime with this operator in its version."""
    if operator.kind.startswith("STABLEHLO_"):
        return AFTER_TFLITE_RUNTIME
    return _RUNTIME.get(f"{operator.kind}.{operator.version}", "1.14.0")


def is_older(runtime: str, other: str) -> bool:
    """Tell whether version `runtime` comes before `other`."""
    return _numbers(runtime) < _numbers(other)


def _beyond(operator: Operator) -> int:
    """Return the version that an operator's options ask for."""
    options = operator.options
    match operator.kind:
        case "CONV_2D" if len(operator.inputs) > 1 and operator.inputs[0].shape[-1] != operator.inputs[1].shape[-1]:
            return 6  # grouped
        case "FULLY_CONNECTED" if options.get("keepNumDims"):
            return 5
        case "RESIZE_BILINEAR" if options.get("halfPixelCenters"):
            return 3
        case "RESIZE_NEAREST_NEIGHBOR" if options.get("halfPixelCenters") or options.get("alignCorners"):
            return 3
        case "STRIDED_SLICE" if options.get("ellipsisMask") or options.get("newAxisMask"):
            return 6
        case "TRANSPOSE_CONV":
            return 4 if options.get("fusedActivationFunction") else 3 if len(operator.inputs) == 4 else 2
        case "MUL" if _gain(operator) >= 1:
            return 3
        case _:
            return 0


def _data(operator: Operator) -> tuple[Tensor, ...]:
    """The inputs, the one that is data first: a SPLIT starts with its axis, a TRANSPOSE_CONV with a shape."""
    skipped = {"SPLIT": 1, "TRANSPOSE_CONV": 2}.get(operator.kind, 0)
    return operator.inputs[skipped:]


def _gain(operator: Operator) -> float:
    """Return what a product of integers is multiplied by: input scales over output scale."""
    scales = [tensor.quantization.scale[0] for tensor in (*operator.inputs, *operator.outputs) if tensor.quantization]
    return scales[0] * scales[1] / scales[2] if len(scales) == 3 else 0.0


def _is_matrix_of_several_scales(operator: Operator) -> bool:
    grid = operator.inputs[1].quantization if operator.kind == "FULLY_CONNECTED" else None
    return grid is not None and len(grid.scale) > 1


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
