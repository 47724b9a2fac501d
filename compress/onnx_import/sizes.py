"""Arithmetic on sizes: exporters write `x.reshape(x.shape[0], -1)` as Shape, Gather, Concat and Reshape.

At run time sizes are Python ints, so that `torch.export` keeps a free batch free. A scalar is an int, a vector a tuple.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import torch
from torch import fx

from compress.onnx_import.builder import Builder, Operation, Value

__all__ = ["SIZES", "shape_of"]

_Sizes = int | tuple[int, ...]


def shape_of(value: torch.Tensor, start: int, end: int | None) -> tuple[int, ...]:
    """Sizes of the dimensions `start` to `end`."""
    return tuple(value.shape[start:end])


def _plain(builder: Builder, value: Value) -> fx.Node | _Sizes:
    """An operand as sizes."""
    if isinstance(value, torch.Tensor):
        numbers = [int(number) for number in value.reshape(-1).tolist()]
        return numbers[0] if value.dim() == 0 else tuple(numbers)
    assert value is not None
    return value


def _gather(builder: Builder, operation: Operation) -> Value:
    return builder.call_sizes(_pick, operation.data(), _plain(builder, operation.constant(1)))


def _slice(builder: Builder, operation: Operation) -> Value:
    starts, ends = operation.constant_ints(1, "starts"), operation.constant_ints(2, "ends")
    steps = operation.constant_ints(4, "steps") or (1,)
    if starts is None or ends is None:
        raise operation.unsupported("without starts and ends")
    return builder.call_sizes(_cut, operation.data(), starts[0], ends[0], steps[0])


def _concat(builder: Builder, operation: Operation) -> Value:
    return builder.call_sizes(_join, *(_plain(builder, value) for value in operation.inputs))


def _arithmetic(function: Callable[[int, int], int]) -> Callable[[Builder, Operation], Value]:
    def handler(builder: Builder, operation: Operation) -> Value:
        left, right = (_plain(builder, operation.data(index)) for index in (0, 1))
        return builder.call_sizes(_elementwise, function, left, right)

    return handler


def _unchanged(builder: Builder, operation: Operation) -> Value:
    return operation.data()


def _vector(builder: Builder, operation: Operation) -> Value:
    return builder.call_sizes(_as_tuple, operation.data())


def _scalar(builder: Builder, operation: Operation) -> Value:
    return builder.call_sizes(_as_int, operation.data())


def _product(builder: Builder, operation: Operation) -> Value:
    keep = operation.get("keepdims", 1)
    product = builder.call_sizes(_multiply, operation.data())
    return builder.call_sizes(_as_tuple, product) if keep else product


def _pick(sizes: tuple[int, ...], index: _Sizes) -> _Sizes:
    return sizes[index] if isinstance(index, int) else tuple(sizes[position] for position in index)


def _cut(sizes: tuple[int, ...], start: int, end: int, step: int) -> tuple[int, ...]:
    return sizes[start:end:step]


def _join(*parts: _Sizes) -> tuple[int, ...]:
    return tuple(size for part in parts for size in _as_tuple(part))


def _elementwise(function: Callable[[int, int], int], left: _Sizes, right: _Sizes) -> _Sizes:
    if isinstance(left, tuple) or isinstance(right, tuple):
        count = max(len(_as_tuple(left)), len(_as_tuple(right)))
        pairs = zip(_spread(left, count), _spread(right, count), strict=True)
        return tuple(function(first, second) for first, second in pairs)
    return function(left, right)


def _spread(sizes: _Sizes, count: int) -> tuple[int, ...]:
    values = _as_tuple(sizes)
    return values * count if len(values) == 1 else values


def _as_tuple(sizes: _Sizes) -> tuple[int, ...]:
    return sizes if isinstance(sizes, tuple) else (sizes,)


def _as_int(sizes: _Sizes) -> int:
    return _as_tuple(sizes)[0]


def _multiply(sizes: _Sizes) -> int:
    return math.prod(_as_tuple(sizes))


SIZES: dict[str, Callable[[Builder, Operation], Value]] = {
    "Add": _arithmetic(operator.add),
    "Cast": _unchanged,
    "Concat": _concat,
    "Div": _arithmetic(operator.floordiv),
    "Gather": _gather,
    "Identity": _unchanged,
    "Mul": _arithmetic(operator.mul),
    "ReduceProd": _product,
    "Slice": _slice,
    "Squeeze": _scalar,
    "Sub": _arithmetic(operator.sub),
    "Unsqueeze": _vector,
}
"""Operators on sizes, by ONNX name."""
