"""Convolutions and products with matrices: modules where the weights are stored, functions where they are computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import fx, nn

from compress.formats.onnx.importer.builder import Builder, Handler, Operation, Value
from compress.formats.onnx.importer.quantized import keep_grid
from compress.formats.onnx.importer.windows import Window, layer_padding, padded, window_of

__all__ = ["LAYERS"]

_CONVS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_CONV_FUNCTIONS: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED_FUNCTIONS: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def _conv(builder: Builder, operation: Operation) -> Value:
    weight, bias, groups = operation.data(1), operation.operand(2), operation.get("group", 1)
    window = window_of(operation, _kernel(operation))
    padding, data = layer_padding(window), operation.data()
    if padding is None:
        data, padding = padded(builder, operation, window, 0.0), (0,) * len(window.kernel)
    dimensions = len(window.kernel)
    if not isinstance(weight, torch.Tensor) or isinstance(bias, fx.Node):
        function = _CONV_FUNCTIONS[dimensions]
        return builder.call(function, data, weight, bias, window.stride, padding, window.dilation, groups)
    layer = _CONVS[dimensions](
        weight.shape[1] * groups,
        weight.shape[0],
        window.kernel,
        stride=window.stride,
        padding=padding,
        dilation=window.dilation,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    return builder.module(keep_grid(_filled(layer, weight, bias), builder.grid_of(weight)), data, operation.name)


def _conv_transpose(builder: Builder, operation: Operation) -> Value:
    """torch takes the same padding at both ends; more of it at one end is more or less output at the other."""
    weight, bias, groups = operation.data(1), operation.operand(2), operation.get("group", 1)
    window = window_of(operation, _kernel(operation))
    before, after, extra = _cropping(operation, window)
    extra = tuple(more + low - high for more, low, high in zip(extra, before, after, strict=True))
    output_padding = tuple(max(more, 0) for more in extra)
    limits = (max(step, spread) for step, spread in zip(window.stride, window.dilation, strict=True))
    if any(more >= limit for more, limit in zip(output_padding, limits, strict=True)):
        raise operation.unsupported(f"with pads {before} before and {after} behind")
    numbers = (window.stride, before, output_padding, groups, window.dilation)
    result = _transposed(builder, operation, weight, bias, numbers)
    for axis, more in enumerate(extra):
        if more < 0:
            result = builder.call(_without_end, result, 2 + axis, -more)
    return result


_TransposedNumbers = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]


def _transposed(
    builder: Builder,
    operation: Operation,
    weight: fx.Node | torch.Tensor,
    bias: Value,
    numbers: _TransposedNumbers,
) -> fx.Node | torch.Tensor:
    """`numbers`: stride, padding, output padding, groups, dilation, as torch's functions take them."""
    stride, padding, output_padding, groups, dilation = numbers
    dimensions = len(stride)
    if not isinstance(weight, torch.Tensor) or isinstance(bias, fx.Node):
        return builder.call(_TRANSPOSED_FUNCTIONS[dimensions], operation.data(), weight, bias, *numbers)
    layer = _TRANSPOSED[dimensions](
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
        bias=bias is not None,
        device="meta",
    )
    layer = keep_grid(_filled(layer, weight, bias), builder.grid_of(weight), axis=1)
    return builder.module(layer, operation.data(), operation.name)


_Numbers = tuple[int, ...]


def _cropping(operation: Operation, window: Window) -> tuple[_Numbers, _Numbers, _Numbers]:
    """Return what is cut off before and behind, and the elements added behind."""
    extra = operation.ints("output_padding") or (0,) * len(window.kernel)
    output_shape = operation.ints("output_shape")
    if output_shape is None and not window.same:
        return window.before, window.after, extra
    before, after, added = [], [], []
    for axis, (stride, reach, more) in enumerate(zip(window.stride, window.reach, extra, strict=True)):
        if output_shape is None:
            total = reach + more - stride  # the output has `size * stride` elements
        else:
            total = stride * (operation.size(2 + axis) - 1) + more + reach - output_shape[axis - len(window.kernel)]
        added.append(more + max(-total, 0))  # what no input reaches is bias alone
        total = max(total, 0)
        small, large = total // 2, total - total // 2
        first = small if window.same == "SAME_UPPER" else large
        before.append(first)
        after.append(total - first)
    return tuple(before), tuple(after), tuple(added)


def _without_end(data: torch.Tensor, axis: int, count: int) -> torch.Tensor:
    return data.narrow(axis, 0, data.shape[axis] - count)


def _kernel(operation: Operation) -> tuple[int, ...]:
    return tuple(operation.size(axis, index=1) for axis in range(2, operation.known_rank(1)))


def _gemm(builder: Builder, operation: Operation) -> Value:
    """`alpha * A @ B + beta * C`."""
    operation.ignore("broadcast")  # until opset 6
    alpha, beta, turned = operation.get("alpha", 1.0), operation.get("beta", 1.0), operation.get("transB", 0)
    data, matrix, offset = operation.data(), operation.data(1), operation.operand(2)
    if operation.get("transA", 0):
        data = builder.call(torch.transpose, data, 0, 1)
    vector = offset is None or (isinstance(offset, torch.Tensor) and _is_bias(offset, operation))
    if not isinstance(matrix, torch.Tensor) or not vector:
        matrix = builder.call(torch.transpose, matrix, 0, 1) if turned else matrix
        product = builder.call(_scaled_product, data, matrix, alpha)
        return product if offset is None else builder.call(torch.add, product, builder.call(torch.mul, offset, beta))
    weight = (matrix if turned else matrix.T) * alpha
    bias = None
    if isinstance(offset, torch.Tensor):
        bias = (offset * beta).expand(1, len(weight)).reshape(-1)
    grid = None if alpha != 1.0 else builder.grid_of(matrix)  # a factor would be lost: then the layer stays float
    return builder.module(keep_grid(_linear(weight, bias), grid), data, operation.name)


def _is_bias(offset: torch.Tensor, operation: Operation) -> bool:
    """One number for each output, or one for all."""
    return offset.dim() < 2 or len(offset) == 1


def _scaled_product(left: torch.Tensor, right: torch.Tensor, factor: float) -> torch.Tensor:
    product = torch.matmul(left, right)
    return product if factor == 1 else product * factor


def _matmul(builder: Builder, operation: Operation) -> Value:
    right = operation.data(1)
    if isinstance(right, torch.Tensor) and right.dim() == 2 and right.is_floating_point():
        layer = keep_grid(_linear(right.T, None), builder.grid_of(right))
        return builder.module(layer, operation.data(), operation.name)
    return builder.call(torch.matmul, operation.data(), right)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """`weight [out, in]`, `bias [out]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _filled(layer, weight, bias)


def _filled(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.contiguous())
    return layer


LAYERS: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
"""Layers by ONNX name."""
