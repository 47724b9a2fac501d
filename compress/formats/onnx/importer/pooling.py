"""Pooling over windows in one, two or three dimensions, and over everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import fx

from compress.formats.onnx.importer.builder import Builder, Handler, Operation, Value
from compress.formats.onnx.importer.windows import Window, layer_padding, padded, window_of

__all__ = ["POOLING"]

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., torch.Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_GLOBAL_AVERAGE: dict[int, Callable[..., torch.Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_GLOBAL_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def _max_pool(builder: Builder, operation: Operation) -> Value:
    operation.ignore("storage_order")  # of the indices, which are an output of their own
    window = _window(operation)
    ceil, padding = bool(operation.get("ceil_mode", 0)), layer_padding(window)
    data = operation.data()
    if padding is None:
        data, padding = padded(builder, operation, window, _lowest(operation)), (0,) * len(window.kernel)
    function = _MAX[len(window.kernel)]
    return builder.call(function, data, window.kernel, window.stride, padding, window.dilation, ceil)


def _lowest(operation: Operation) -> float:
    data = operation.data()
    if isinstance(data, torch.Tensor) and not data.is_floating_point():
        raise operation.unsupported("of integers with uneven padding")
    return float("-inf")


def _average_pool(builder: Builder, operation: Operation) -> Value:
    window, counted = _window(operation), bool(operation.get("count_include_pad", 0))
    ceil, padding = bool(operation.get("ceil_mode", 0)), layer_padding(window)
    if set(window.dilation) != {1}:
        raise operation.unsupported(f"with dilations {window.dilation}")
    function = _AVERAGE[len(window.kernel)]
    if padding is not None:
        return builder.call(function, operation.data(), window.kernel, window.stride, padding, ceil, counted)
    around = padded(builder, operation, window, 0.0)
    none = (0,) * len(window.kernel)
    average = builder.call(function, around, window.kernel, window.stride, none, ceil)
    if counted:
        return average
    share = builder.call(function, _ones(builder, operation, window), window.kernel, window.stride, none, ceil)
    return builder.call(torch.div, average, share)


def _ones(builder: Builder, operation: Operation, window: Window) -> fx.Node | torch.Tensor:
    """Ones where the padded operand has elements of its own; their average is the share of the window they fill."""
    sizes = tuple(operation.size(2 + axis) for axis in range(len(window.kernel)))
    ones = Operation(
        operation.kind, operation.name, (torch.ones(1, 1, *sizes),), operation.attributes, 1, operation.opset, ()
    )
    return padded(builder, ones, window, 0.0)


def _window(operation: Operation) -> Window:
    kernel = operation.ints("kernel_shape")
    if kernel is None:
        raise operation.unsupported("without kernel_shape")
    return window_of(operation, kernel)


def _over_everything(functions: Mapping[int, Callable[..., torch.Tensor]]) -> Handler:
    def handler(builder: Builder, operation: Operation) -> Value:
        dimensions = (operation.rank() or 4) - 2
        if dimensions not in functions:
            raise operation.unsupported(f"over {dimensions} dimensions")
        return builder.call(functions[dimensions], operation.data(), (1,) * dimensions)

    return handler


POOLING: dict[str, Handler] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _over_everything(_GLOBAL_AVERAGE),
    "GlobalMaxPool": _over_everything(_GLOBAL_MAX),
    "MaxPool": _max_pool,
}
"""Handlers by ONNX name."""
