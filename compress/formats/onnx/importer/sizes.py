"""Arithmetic on sizes: exporters write `x.reshape(x.shape[0], -1)` as Shape, Gather, Concat and Reshape.

At run time sizes are Python numbers, so that `torch.export` keeps a free batch free. A scalar is a number, a vector a
tuple; exporters scale sizes in float and round them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import onnx
import torch
from torch import fx

from compress.formats.onnx.importer.builder import Builder, Operation, Value, numbers_of

__all__ = ["SIZES", "TAKES_SIZES", "as_tensor", "shape_of"]

_Number = int | float
_Sizes = _Number | tuple[_Number, ...]
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})

TAKES_SIZES = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (3,),
    "Slice": (1, 2),
    "Tile": (1,),
}
"""Places of the operands that operators on tensors take as sizes."""


def shape_of(value: torch.Tensor, start: int, end: int | None) -> tuple[int, ...]:
    """Sizes of the dimensions `start` to `end`."""
    return tuple(value.shape[start:end])


def as_tensor(sizes: _Sizes) -> torch.Tensor:
    """Sizes as data: int64, or float32 where they were scaled."""
    values = sizes if isinstance(sizes, tuple) else (sizes,)
    tensor = torch.stack([torch.as_tensor(value) for value in values]) if values else torch.zeros(0, dtype=torch.int64)
    return tensor if isinstance(sizes, tuple) else tensor[0]


def _plain(value: Value) -> fx.Node | _Sizes:
    """An operand as sizes."""
    if isinstance(value, torch.Tensor):
        numbers = numbers_of(value)
        return numbers[0] if value.dim() == 0 else tuple(numbers)
    assert value is not None
    return value


def _gather(builder: Builder, operation: Operation) -> Value:
    operation.ignore("axis")  # there is one
    return builder.call_sizes(_pick, operation.data(), _plain(operation.stored(1)))


def _slice(builder: Builder, operation: Operation) -> Value:
    operation.ignore(3, "axes")
    starts, ends = operation.constant_ints(1, "starts"), operation.constant_ints(2, "ends")
    steps = operation.constant_ints(4, "steps") or (1,)
    if starts is None or ends is None:
        raise operation.unsupported("without starts and ends")
    return builder.call_sizes(_cut, operation.data(), starts[0], ends[0], steps[0])


def _concat(builder: Builder, operation: Operation) -> Value:
    operation.ignore("axis")
    return builder.call_sizes(_join, *(_plain(value) for value in operation.operands()))


def _arithmetic(function: Callable[[_Sizes, _Sizes], _Sizes]) -> Callable[[Builder, Operation], Value]:
    def handler(builder: Builder, operation: Operation) -> Value:
        return builder.call_sizes(function, _plain(operation.data()), _plain(operation.data(1)))

    return handler


def _where(builder: Builder, operation: Operation) -> Value:
    return builder.call_sizes(_choose, *(_plain(value) for value in operation.operands()))


def _flat(builder: Builder, operation: Operation) -> Value:
    operation.ignore("allowzero")
    if operation.stored(1).tolist() != [-1]:
        raise operation.unsupported("of sizes")
    return builder.call_sizes(_as_tuple, operation.data())


def _rounded(function: Callable[[_Sizes], _Sizes]) -> Callable[[Builder, Operation], Value]:
    def handler(builder: Builder, operation: Operation) -> Value:
        return builder.call_sizes(function, operation.data())

    return handler


def _unchanged(builder: Builder, operation: Operation) -> Value:
    return operation.data()


def _cast(builder: Builder, operation: Operation) -> Value:
    to_float = operation.get("to", onnx.TensorProto.INT64) in _FLOATS
    return builder.call_sizes(_as_floats if to_float else _as_ints, operation.data())


def _vector(builder: Builder, operation: Operation) -> Value:
    operation.ignore("axes", 1)
    return builder.call_sizes(_as_tuple, operation.data())


def _scalar(builder: Builder, operation: Operation) -> Value:
    operation.ignore("axes", 1)
    return builder.call_sizes(_as_number, operation.data())


def _product(builder: Builder, operation: Operation) -> Value:
    operation.ignore("axes", 1)
    keep = operation.get("keepdims", 1)
    product = builder.call_sizes(_multiply_all, operation.data())
    return builder.call_sizes(_as_tuple, product) if keep else product


def _pick(sizes: tuple[_Number, ...], index: int | tuple[int, ...]) -> _Sizes:
    return sizes[index] if isinstance(index, int) else tuple(sizes[position] for position in index)


def _cut(sizes: tuple[_Number, ...], start: int, end: int, step: int) -> tuple[_Number, ...]:
    return sizes[start:end:step]


def _join(*parts: _Sizes) -> tuple[_Number, ...]:
    return tuple(size for part in parts for size in _as_tuple(part))


def _add(left: _Sizes, right: _Sizes) -> _Sizes:
    return _elementwise(lambda a, b: a + b, left, right)


def _subtract(left: _Sizes, right: _Sizes) -> _Sizes:
    return _elementwise(lambda a, b: a - b, left, right)


def _multiply(left: _Sizes, right: _Sizes) -> _Sizes:
    return _elementwise(lambda a, b: a * b, left, right)


def _divide(left: _Sizes, right: _Sizes) -> _Sizes:
    return _elementwise(lambda a, b: a / b if isinstance(a, float | torch.SymFloat) else a // b, left, right)


def _floor(sizes: _Sizes) -> _Sizes:
    return _each(lambda size: float(math.floor(size)), sizes)


def _ceil(sizes: _Sizes) -> _Sizes:
    return _each(lambda size: float(math.ceil(size)), sizes)


def _as_floats(sizes: _Sizes) -> _Sizes:
    return _each(lambda size: cast(float, torch.sym_float(size)), sizes)


def _as_ints(sizes: _Sizes) -> _Sizes:
    return _each(lambda size: torch.sym_int(size), sizes)


def _equal(left: _Sizes, right: _Sizes) -> _Sizes:
    return _elementwise(lambda a, b: a == b, left, right)


def _choose(conditions: _Sizes, left: _Sizes, right: _Sizes) -> _Sizes:
    count = max(len(_as_tuple(operand)) for operand in (conditions, left, right))
    columns = zip(*(_spread(operand, count) for operand in (conditions, left, right)), strict=True)
    return tuple(first if condition else second for condition, first, second in columns)


def _each(function: Callable[[_Number], _Number], sizes: _Sizes) -> _Sizes:
    return tuple(map(function, sizes)) if isinstance(sizes, tuple) else function(sizes)


def _elementwise(function: Callable[[_Number, _Number], _Number], left: _Sizes, right: _Sizes) -> _Sizes:
    if isinstance(left, tuple) or isinstance(right, tuple):
        count = max(len(_as_tuple(left)), len(_as_tuple(right)))
        pairs = zip(_spread(left, count), _spread(right, count), strict=True)
        return tuple(function(first, second) for first, second in pairs)
    return function(left, right)


def _spread(sizes: _Sizes, count: int) -> tuple[_Number, ...]:
    values = _as_tuple(sizes)
    return values * count if len(values) == 1 else values


def _as_tuple(sizes: _Sizes) -> tuple[_Number, ...]:
    return sizes if isinstance(sizes, tuple) else (sizes,)


def _as_number(sizes: _Sizes) -> _Number:
    return _as_tuple(sizes)[0]


def _multiply_all(sizes: _Sizes) -> _Number:
    return math.prod(_as_tuple(sizes))


SIZES: dict[str, Callable[[Builder, Operation], Value]] = {
    "Add": _arithmetic(_add),
    "Cast": _cast,
    "Ceil": _rounded(_ceil),
    "Concat": _concat,
    "Div": _arithmetic(_divide),
    "Equal": _arithmetic(_equal),
    "Floor": _rounded(_floor),
    "Gather": _gather,
    "Identity": _unchanged,
    "Mul": _arithmetic(_multiply),
    "ReduceProd": _product,
    "Reshape": _flat,
    "Slice": _slice,
    "Squeeze": _scalar,
    "Sub": _arithmetic(_subtract),
    "Unsqueeze": _vector,
    "Where": _where,
}
"""Operators on sizes, by ONNX name."""
