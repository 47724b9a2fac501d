"""Operators without stored weights: activations, arithmetic, reductions, and what moves data around."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import onnx
import torch
import torch.nn.functional as F
from torch import fx

from compress.onnx_import.builder import Builder, Operation, Value, WeightGrid
from compress.onnx_import.sizes import shape_of

__all__ = ["OPERATORS"]

_Handler = Callable[[Builder, Operation], Value | list[Value]]


def _plain(function: Callable[..., object]) -> _Handler:
    """All operands in, one tensor out, no attributes."""

    def handler(builder: Builder, operation: Operation) -> Value:
        return builder.call(function, *operation.inputs)

    return handler


def _folded(function: Callable[..., object]) -> _Handler:
    """A variadic operator as a chain of binary ones."""

    def handler(builder: Builder, operation: Operation) -> Value:
        total = operation.data()
        for value in operation.inputs[1:]:
            total = builder.call(function, total, value)
        return total

    return handler


def _unchanged(builder: Builder, operation: Operation) -> Value:
    return operation.data()


def _clip(builder: Builder, operation: Operation) -> Value:
    low, high = (_limit(operation, index, name) for index, name in ((1, "min"), (2, "max")))
    if (low, high) == (0.0, 6.0):
        return builder.call(F.relu6, operation.data())
    return builder.call(torch.clamp, operation.data(), low, high)


def _limit(operation: Operation, index: int, name: str) -> float | None:
    """An attribute until opset 10, an operand afterwards."""
    stored = operation.constant(index)
    if stored is not None:
        return float(stored)
    return operation.get(name, math.nan) if name in operation.attributes else None


def _hard_sigmoid(builder: Builder, operation: Operation) -> Value:
    """`clamp(alpha * x + beta, 0, 1)`."""
    alpha, beta = operation.get("alpha", 0.2), operation.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return builder.call(F.hardsigmoid, operation.data())
    scaled = builder.call(torch.add, builder.call(torch.mul, operation.data(), alpha), beta)
    return builder.call(torch.clamp, scaled, 0.0, 1.0)


def _leaky_relu(builder: Builder, operation: Operation) -> Value:
    return builder.call(F.leaky_relu, operation.data(), operation.get("alpha", 0.01))


def _elu(builder: Builder, operation: Operation) -> Value:
    return builder.call(F.elu, operation.data(), operation.get("alpha", 1.0))


def _prelu(builder: Builder, operation: Operation) -> Value:
    slope = operation.constant(1)
    if slope is None:
        raise operation.unsupported("without slopes")
    return builder.call(F.prelu, operation.data(), slope.reshape(-1))


def _gelu(builder: Builder, operation: Operation) -> Value:
    return builder.call(_approximate_gelu, operation.data(), operation.get("approximate", "none"))


def _approximate_gelu(data: torch.Tensor, approximate: str) -> torch.Tensor:
    return F.gelu(data, approximate=approximate)


def _softmax(builder: Builder, operation: Operation) -> Value:
    """Until opset 12 the operand is flattened at `axis` first, which is the same only for the last axis."""
    rank = operation.rank()
    axis = operation.get("axis", -1 if operation.opset >= 13 else 1)
    if operation.opset < 13 and axis != -1 and (rank is None or axis != rank - 1):
        raise operation.unsupported("over several axes")
    return builder.call(torch.softmax, operation.data(), axis)


def _reduce(function: Callable[..., object]) -> _Handler:
    def handler(builder: Builder, operation: Operation) -> Value:
        axes = operation.constant_ints(1, "axes")
        if axes is None:
            if operation.get("noop_with_empty_axes", 0):
                return operation.data()
            rank = operation.rank()
            if rank is None:
                raise operation.unsupported("over all axes of an unknown rank")
            axes = tuple(range(rank))
        return builder.call(function, operation.data(), axes, bool(operation.get("keepdims", 1)))

    return handler


def _reshape(builder: Builder, operation: Operation) -> Value:
    target = operation.data(1)
    if isinstance(target, fx.Node):
        return builder.call(_reshape_to, operation.data(), target)
    sizes = [int(size) for size in target.tolist()]
    known = operation.shapes[0]
    if sizes and sizes[0] == 1 and known is not None and known[0] == 1:
        sizes[0] = 0  # exported for one image; keeping the leading size is the same there and right for more
    return builder.call(_reshape_to, operation.data(), tuple(sizes))


def _reshape_to(data: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """0 keeps the size of the operand, -1 is inferred."""
    return data.reshape([data.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


def _flatten(builder: Builder, operation: Operation) -> Value:
    axis = operation.get("axis", 1)
    if axis == 1:
        return builder.call(torch.flatten, operation.data(), 1)
    return builder.call(_flatten_at, operation.data(), axis)


def _flatten_at(data: torch.Tensor, axis: int) -> torch.Tensor:
    rows = math.prod(data.shape[:axis])
    return data.reshape(rows, math.prod(data.shape[axis:]))


def _transpose(builder: Builder, operation: Operation) -> Value:
    order = operation.ints("perm") or tuple(reversed(range(operation.rank() or 0)))
    moved = builder.call(torch.permute, operation.data(), order)
    grid = builder.grid_of(operation.data())
    if grid is not None and isinstance(moved, torch.Tensor):
        axis = None if grid.axis is None else order.index(grid.axis)
        builder.grids[id(moved)] = WeightGrid(grid.scale, axis, moved)
    return moved


def _squeeze(builder: Builder, operation: Operation) -> Value:
    axes = operation.constant_ints(1, "axes")
    if axes is None:
        raise operation.unsupported("without axes")
    return builder.call(torch.squeeze, operation.data(), axes)


def _unsqueeze(builder: Builder, operation: Operation) -> Value:
    axes = operation.constant_ints(1, "axes")
    if axes is None:
        raise operation.unsupported("without axes")
    value = operation.data()
    for axis in sorted(axes):
        value = builder.call(torch.unsqueeze, value, axis)
    return value


def _concat(builder: Builder, operation: Operation) -> Value:
    return builder.call(torch.cat, list(operation.inputs), operation.get("axis", 0))


def _split(builder: Builder, operation: Operation) -> list[Value]:
    axis = operation.get("axis", 0)
    sizes = operation.constant_ints(1, "split")
    shape = operation.shapes[0]
    if sizes is None:
        whole = shape[axis] if shape is not None else None
        if whole is None:
            raise operation.unsupported("of an unknown size")
        size = -(-whole // operation.outputs)
        sizes = tuple(min(size, whole - start) for start in range(0, whole, size))
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [
        builder.call(torch.narrow, operation.data(), axis, start, size)
        for start, size in zip(starts, sizes, strict=True)
    ]


def _slice(builder: Builder, operation: Operation) -> Value:
    starts, ends = operation.constant_ints(1, "starts"), operation.constant_ints(2, "ends")
    if starts is None or ends is None:
        raise operation.unsupported("without starts and ends")
    axes = operation.constant_ints(3, "axes") or tuple(range(len(starts)))
    steps = operation.constant_ints(4, "steps") or (1,) * len(starts)
    if min(steps) < 1:
        raise operation.unsupported("backwards")
    value = operation.data()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        value = builder.call(_slice_axis, value, axis, start, end, step)
    return value


def _slice_axis(data: torch.Tensor, axis: int, start: int, end: int, step: int) -> torch.Tensor:
    index = [slice(None)] * data.dim()
    index[axis] = slice(start, end, step)
    return data[tuple(index)]


def _gather(builder: Builder, operation: Operation) -> Value:
    index, axis = operation.constant(1), operation.get("axis", 0)
    if index is None or index.dim() > 1:
        raise operation.unsupported("with an index of several dimensions")
    if index.dim() == 0:
        return builder.call(torch.select, operation.data(), axis, int(index))
    return builder.call(torch.index_select, operation.data(), axis, index)


def _pad(builder: Builder, operation: Operation) -> Value:
    pads = operation.constant_ints(1, "pads")
    if pads is None or operation.operand(3) is not None:
        raise operation.unsupported("with axes")
    half = len(pads) // 2
    order = [pads[side * half + axis] for axis in reversed(range(half)) for side in (0, 1)]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(operation.get("mode", "constant"))
    if mode is None:
        raise operation.unsupported("in this mode")
    if mode != "constant":  # torch pads the last dimensions only in these modes
        if any(order[4:]):
            raise operation.unsupported("of batch or channels")
        return builder.call(F.pad, operation.data(), tuple(order[:4]), mode)
    fill = operation.constant(2)
    value = float(fill) if fill is not None else operation.get("value", 0.0)
    return builder.call(F.pad, operation.data(), tuple(order), "constant", value)


def _cast(builder: Builder, operation: Operation) -> Value:
    kind = _TYPES.get(operation.get("to", 1))
    if kind is None:
        raise operation.unsupported("to this type")
    return builder.call(_to, operation.data(), kind)


def _to(data: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return data.to(kind)


_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


def _constant(builder: Builder, operation: Operation) -> Value:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in operation.attributes:
            return torch.as_tensor(operation.attributes[name])
    raise operation.unsupported("of this type")


def _shape(builder: Builder, operation: Operation) -> Value:
    end = operation.get("end", 0) if "end" in operation.attributes else None
    value = operation.data()
    if isinstance(value, torch.Tensor):
        return torch.tensor(shape_of(value, operation.get("start", 0), end))
    return builder.call_sizes(shape_of, value, operation.get("start", 0), end)


def _local_response_norm(builder: Builder, operation: Operation) -> Value:
    alpha, beta, bias = operation.get("alpha", 1e-4), operation.get("beta", 0.75), operation.get("bias", 1.0)
    return builder.call(F.local_response_norm, operation.data(), operation.get("size", 1), alpha, beta, bias)


OPERATORS: dict[str, _Handler] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Div": _plain(torch.div),
    "Dropout": _unchanged,
    "Elu": _elu,
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _unchanged,
    "LRN": _local_response_norm,
    "LeakyRelu": _leaky_relu,
    "Max": _folded(torch.maximum),
    "Min": _folded(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _plain(operator.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _plain(F.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Sum": _folded(torch.add),
    "Tanh": _plain(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Handlers by ONNX name."""
