"""Operators that join the elements along axes: sums, norms, the largest element, softmax, products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx

from compress.formats.onnx.importer.builder import Builder, Handler, Operation, Value

__all__ = ["REDUCTIONS"]

_Reduction = Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]


def _reduce(function: _Reduction, *, of_nothing: bool = True) -> Handler:
    """`function(data, axes, keepdims)`; not every one is defined `of_nothing`."""

    def handler(builder: Builder, operation: Operation) -> Value:
        axes = operation.constant_ints(1, "axes")
        keep, noop = bool(operation.get("keepdims", 1)), operation.get("noop_with_empty_axes", 0)
        if not axes:
            if noop:
                return operation.data()
            axes = tuple(range(operation.known_rank()))
        shape = operation.shape()
        if not of_nothing and (shape is None or any(shape[axis] == 0 for axis in axes)):
            raise operation.unsupported("over no elements or an unknown number of them")
        return builder.call(function, operation.data(), axes, keep) if axes else operation.data()

    return handler


def _absolute_sum(data: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return _sum(data.abs(), axes, keep)


def _root_of_squares(data: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.sqrt(_sum_of_squares(data, axes, keep))


def _sum_of_squares(data: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return _sum(data * data, axes, keep)


def _log_of_sum(data: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.log(_sum(data, axes, keep))


def _sum(data: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    """torch adds narrow integers in int64; ONNX keeps the type."""
    return torch.sum(data, axes, keep) if data.is_floating_point() else torch.sum(data, axes, keep, dtype=data.dtype)


def _product(data: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % data.dim() for axis in axes), reverse=True):
        data = torch.prod(data, axis, keep, dtype=data.dtype)
    return data


def _largest_at(function: Callable[..., torch.Tensor]) -> Handler:
    def handler(builder: Builder, operation: Operation) -> Value:
        axis, keep = operation.get("axis", 0), bool(operation.get("keepdims", 1))
        if operation.get("select_last_index", 0):
            return builder.call(_last_of_ties, operation.data(), axis, keep, function is torch.argmin)
        return builder.call(function, operation.data(), axis, keep)

    return handler


def _last_of_ties(data: torch.Tensor, axis: int, keep: bool, smallest: bool) -> torch.Tensor:
    turned = torch.flip(data, (axis,))
    first = (torch.argmin if smallest else torch.argmax)(turned, axis, keep)
    return data.shape[axis] - 1 - first


def _cumulative(builder: Builder, operation: Operation) -> Value:
    axis = int(operation.stored(1))
    exclusive, backwards = bool(operation.get("exclusive", 0)), bool(operation.get("reverse", 0))
    return builder.call(_running_sum, operation.data(), axis, exclusive, backwards)


def _running_sum(data: torch.Tensor, axis: int, exclusive: bool, backwards: bool) -> torch.Tensor:
    values = torch.flip(data, (axis,)) if backwards else data
    total = torch.cumsum(values, axis, dtype=data.dtype)
    total = total - values if exclusive else total
    return torch.flip(total, (axis,)) if backwards else total


def _softmax(function: Callable[..., torch.Tensor], flattened: Callable[..., torch.Tensor]) -> Handler:
    """Make a handler; until opset 12 the operand is flattened at `axis` first, the same only for the last axis."""

    def handler(builder: Builder, operation: Operation) -> Value:
        axis = operation.get("axis", -1 if operation.opset >= 13 else 1)
        if operation.opset >= 13 or axis == -1 or axis % operation.known_rank() == operation.known_rank() - 1:
            return builder.call(function, operation.data(), axis)
        return builder.call(flattened, operation.data(), axis)

    return handler


def _softmax_of_rows(data: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.softmax(data.flatten(start_dim=axis), -1).reshape(data.shape)


def _log_softmax_of_rows(data: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.log_softmax(data.flatten(start_dim=axis), -1).reshape(data.shape)


def _einsum(builder: Builder, operation: Operation) -> Value:
    equation = operation.get("equation", "")
    operands = operation.operands()
    if any(isinstance(operand, fx.Node) for operand in operands):
        return builder.call(_contract, equation, *operands)
    return torch.einsum(equation, *(operand for operand in operands if isinstance(operand, torch.Tensor)))


def _contract(equation: str, *operands: torch.Tensor) -> torch.Tensor:
    return torch.einsum(equation, *operands)


def _log_sum_exp(data: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.logsumexp(data, axes, keep)


def _mean(data: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    if data.is_floating_point():
        return torch.mean(data, axes, keep)
    count = math.prod(data.shape[axis] for axis in axes)
    return torch.div(_sum(data, axes, keep), count, rounding_mode="trunc")


REDUCTIONS: dict[str, Handler] = {
    "ArgMax": _largest_at(torch.argmax),
    "ArgMin": _largest_at(torch.argmin),
    "CumSum": _cumulative,
    "Einsum": _einsum,
    "LogSoftmax": _softmax(torch.log_softmax, _log_softmax_of_rows),
    "ReduceL1": _reduce(_absolute_sum),
    "ReduceL2": _reduce(_root_of_squares),
    "ReduceLogSum": _reduce(_log_of_sum),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "ReduceMax": _reduce(torch.amax, of_nothing=False),
    "ReduceMean": _reduce(_mean),
    "ReduceMin": _reduce(torch.amin, of_nothing=False),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(_sum),
    "ReduceSumSquare": _reduce(_sum_of_squares),
    "Softmax": _softmax(torch.softmax, _softmax_of_rows),
}
"""Handlers by ONNX name."""
