"""Operators with stored weights, and the windowed ones that share their padding rules."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import fx, nn

from compress.onnx_import.builder import Builder, Operation, Value
from compress.onnx_import.quantized import keep_grid

__all__ = ["LAYERS"]

_Pads = tuple[int, int, int, int]
"""Rows above, columns left, rows below, columns right: ONNX's order."""


def _conv(builder: Builder, operation: Operation) -> Value:
    weight, bias = operation.constant(1), operation.constant(2)
    if weight is None or weight.dim() != 4:
        raise operation.unsupported("that is not two-dimensional")
    kernel = (weight.shape[2], weight.shape[3])
    stride, dilation = _pair(operation, "strides"), _pair(operation, "dilations")
    data, padding = _padded(builder, operation, kernel, stride, dilation, fill=0.0)
    groups = operation.get("group", 1)
    conv = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    layer = keep_grid(_filled(conv, weight, bias), builder.grid_of(weight))
    return builder.module(layer, data, operation.name)


def _gemm(builder: Builder, operation: Operation) -> Value:
    """`alpha * A @ B + beta * C`."""
    matrix, offset = operation.constant(1), operation.constant(2)
    if matrix is None or operation.get("transA", 0):
        raise operation.unsupported("with transA")
    weight = (matrix if operation.get("transB", 0) else matrix.T) * operation.get("alpha", 1.0)
    bias = None if offset is None else (offset * operation.get("beta", 1.0)).expand(1, len(weight)).reshape(-1)
    scaled = operation.get("alpha", 1.0) != 1.0  # a factor would be lost: then the layer stays float
    layer = keep_grid(_linear(weight, bias), None if scaled else builder.grid_of(matrix))
    return builder.module(layer, operation.data(), operation.name)


def _matmul(builder: Builder, operation: Operation) -> Value:
    right = operation.data(1)
    if isinstance(right, torch.Tensor) and right.dim() == 2:
        layer = keep_grid(_linear(right.T, None), builder.grid_of(right))
        return builder.module(layer, operation.data(), operation.name)
    return builder.call(torch.matmul, operation.data(), right)


def _batch_norm(builder: Builder, operation: Operation) -> Value:
    stored = [operation.constant(index) for index in range(1, 5)]
    scale, offset, mean, variance = stored
    if scale is None or offset is None or mean is None or variance is None or operation.get("training_mode", 0):
        raise operation.unsupported("in training mode")
    kind = nn.BatchNorm1d if operation.rank() in (2, 3) else nn.BatchNorm2d
    norm = kind(len(mean), eps=operation.get("epsilon", 1e-5))
    norm.weight, norm.bias = nn.Parameter(scale.float()), nn.Parameter(offset.float())
    norm.running_mean, norm.running_var = mean.float(), variance.float()
    return builder.module(norm, operation.data(), operation.name)


def _max_pool(builder: Builder, operation: Operation) -> Value:
    if operation.outputs != 1 or operation.ints("kernel_shape") is None:
        raise operation.unsupported("with indices")
    kernel, stride, dilation = (_pair(operation, name) for name in ("kernel_shape", "strides", "dilations"))
    data, padding = _padded(builder, operation, kernel, stride, dilation, fill=float("-inf"))
    ceil = bool(operation.get("ceil_mode", 0))
    return builder.call(F.max_pool2d, data, kernel, stride, padding, dilation, ceil)


def _average_pool(builder: Builder, operation: Operation) -> Value:
    kernel, stride, dilation = (_pair(operation, name) for name in ("kernel_shape", "strides", "dilations"))
    count_padding = bool(operation.get("count_include_pad", 0))
    data, padding = _padded(builder, operation, kernel, stride, dilation, fill=0.0)
    if dilation != (1, 1) or (data is not operation.data() and not count_padding):
        raise operation.unsupported("with uneven padding that is not counted")
    ceil = bool(operation.get("ceil_mode", 0))
    return builder.call(F.avg_pool2d, data, kernel, stride, padding, ceil, count_padding)


def _global_average(builder: Builder, operation: Operation) -> Value:
    return builder.call(F.adaptive_avg_pool2d, operation.data(), (1, 1))


def _global_max(builder: Builder, operation: Operation) -> Value:
    return builder.call(F.adaptive_max_pool2d, operation.data(), (1, 1))


def _layer_norm(builder: Builder, operation: Operation) -> Value:
    scale = operation.constant(1)
    if scale is None or operation.get("axis", -1) not in (-1, (operation.rank() or 0) - 1):
        raise operation.unsupported("over several axes")
    shape, epsilon = (scale.numel(),), operation.get("epsilon", 1e-5)
    return builder.call(F.layer_norm, operation.data(), shape, scale, operation.constant(2), epsilon)


def _padded(
    builder: Builder,
    operation: Operation,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    fill: float,
) -> tuple[fx.Node | torch.Tensor, tuple[int, int]]:
    """The operand and the padding that the layer itself does; what a layer cannot do is padded before it."""
    data = operation.data()
    automatic = operation.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return builder.call(_pad_same, data, kernel, stride, dilation, automatic == "SAME_UPPER", fill), (0, 0)
    pads = operation.ints("pads") or (0, 0, 0, 0)
    if automatic == "VALID" or not any(pads):
        return data, (0, 0)
    if len(pads) != 4:
        raise operation.unsupported("that is not two-dimensional")
    top, left, bottom, right = pads
    even = (top, left) == (bottom, right) and top * 2 <= kernel[0] and left * 2 <= kernel[1]
    if even:
        return data, (top, left)
    return builder.call(F.pad, data, (left, right, top, bottom), "constant", fill), (0, 0)


def _pad_same(
    data: torch.Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    extra_at_end: bool,
    fill: float,
) -> torch.Tensor:
    """Pad so that the output has `ceil(size / stride)` elements, `[N, C, H, W]`."""
    pads: list[int] = []
    for axis in (1, 0):  # F.pad starts at the last dimension
        size = data.shape[2 + axis]
        reach = (-(-size // stride[axis]) - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        total = max(reach - size, 0)
        small, large = total // 2, total - total // 2
        pads += [small, large] if extra_at_end else [large, small]
    return F.pad(data, pads, "constant", fill)


def _pair(operation: Operation, name: str) -> tuple[int, int]:
    values = operation.ints(name) or (1, 1)
    if len(values) != 2:
        raise operation.unsupported("that is not two-dimensional")
    return (values[0], values[1])


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """`weight [out, in]`, `bias [out]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _filled(layer, weight, bias)


def _filled(layer: nn.Conv2d | nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.contiguous())
    return layer


LAYERS: dict[str, Callable[[Builder, Operation], Value]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
"""Layers by ONNX name."""
