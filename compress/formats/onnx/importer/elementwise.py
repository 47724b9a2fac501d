"""Operators that treat every element alike: arithmetic, comparisons, activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx
import torch
import torch.nn.functional as F
from torch import fx

from compress.formats.onnx.importer.builder import Builder, Handler, Operation, Value

__all__ = ["ELEMENTWISE", "TYPES"]


def _plain(function: Callable[..., object]) -> Handler:
    """All operands in, one tensor out, no attributes."""

    def handler(builder: Builder, operation: Operation) -> Value:
        return builder.call(function, *operation.operands())

    return handler


def _folded(function: Callable[..., object]) -> Handler:
    """A variadic operator as a chain of binary ones."""

    def handler(builder: Builder, operation: Operation) -> Value:
        total, *others = operation.operands()
        for value in others:
            total = builder.call(function, total, value)
        return total

    return handler


def _activation(function: Callable[..., object], **defaults: float) -> Handler:
    """A function of one tensor and of attributes, in the order of `defaults`."""

    def handler(builder: Builder, operation: Operation) -> Value:
        return builder.call(function, operation.data(), *(operation.get(name, defaults[name]) for name in defaults))

    return handler


def _unchanged(builder: Builder, operation: Operation) -> Value:
    return operation.data()


def _mean(builder: Builder, operation: Operation) -> Value:
    return builder.call(torch.div, _folded(torch.add)(builder, operation), float(len(operation.inputs)))


def _divide(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Integers are divided towards zero."""
    return torch.div(left, right, rounding_mode=None if left.is_floating_point() else "trunc")


def _pow(builder: Builder, operation: Operation) -> Value:
    base, exponent = operation.data(), operation.data(1)
    if isinstance(exponent, torch.Tensor) and exponent.numel() == 1 and exponent.dim() == 0:
        return builder.call(_power, base, exponent.item())
    return builder.call(_power, base, exponent)


def _power(base: torch.Tensor, exponent: torch.Tensor | float) -> torch.Tensor:
    """The result has the type of the base."""
    return torch.pow(base, exponent).to(base.dtype)


def _modulo(builder: Builder, operation: Operation) -> Value:
    """Take the remainder: with `fmod` its sign is the dividend's, else the divisor's."""
    function = torch.fmod if operation.get("fmod", 0) else torch.remainder
    return builder.call(function, operation.data(), operation.data(1))


def _clip(builder: Builder, operation: Operation) -> Value:
    low, high = (_limit(operation, index, name) for index, name in ((1, "min"), (2, "max")))
    if low is None and high is None:
        return operation.data()
    if (low, high) == (0.0, 6.0):
        return builder.call(F.relu6, operation.data())
    if isinstance(low, fx.Node | torch.Tensor) or isinstance(high, fx.Node | torch.Tensor):
        tensors = (_as_operand(limit) for limit in (low, high))
        return builder.call(torch.clamp, operation.data(), *tensors)
    return builder.call(torch.clamp, operation.data(), low, high)


def _limit(operation: Operation, index: int, name: str) -> float | fx.Node | None:
    """An attribute until opset 10, an operand afterwards."""
    value = operation.operand(index)
    if isinstance(value, torch.Tensor):
        number: float = value.item()
        return number
    if value is not None:
        return value
    return operation.get(name, math.nan) if name in operation.attributes else None


def _as_operand(limit: float | fx.Node | None) -> fx.Node | torch.Tensor | None:
    """torch takes two numbers or two tensors."""
    return torch.tensor(limit) if isinstance(limit, int | float) else limit


def _hard_sigmoid(builder: Builder, operation: Operation) -> Value:
    """`clamp(alpha * x + beta, 0, 1)`."""
    alpha, beta = operation.get("alpha", 0.2), operation.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return builder.call(F.hardsigmoid, operation.data())
    scaled = builder.call(torch.add, builder.call(torch.mul, operation.data(), alpha), beta)
    return builder.call(torch.clamp, scaled, 0.0, 1.0)


def _prelu(builder: Builder, operation: Operation) -> Value:
    """Slopes are broadcast as any operand is; torch's own PReLU has one for each channel, or one."""
    data, slope = operation.data(), operation.data(1)
    rank, shape = operation.rank(), operation.shape(1)
    if isinstance(slope, torch.Tensor) and rank is not None and shape is not None:
        padded = (1,) * (rank - len(shape)) + tuple(size or 0 for size in shape)
        if slope.numel() == 1 or (rank > 1 and slope.numel() == padded[1]):
            return builder.call(F.prelu, data, slope.reshape(-1))
    return builder.call(_leak, data, slope)


def _leak(data: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(data < 0, slope * data, data)


def _gelu(builder: Builder, operation: Operation) -> Value:
    return builder.call(_approximate_gelu, operation.data(), operation.get("approximate", "none"))


def _approximate_gelu(data: torch.Tensor, approximate: str) -> torch.Tensor:
    return F.gelu(data, approximate=approximate)


def _selu(data: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    return torch.where(data > 0, data, alpha * torch.expm1(data)) * gamma


def _thresholded(data: torch.Tensor, alpha: float) -> torch.Tensor:
    return torch.where(data > alpha, data, torch.zeros_like(data))


def _shrink(data: torch.Tensor, lambd: float, bias: float) -> torch.Tensor:
    zeros = torch.zeros_like(data)
    return torch.where(data < -lambd, data + bias, torch.where(data > lambd, data - bias, zeros))


def _swish(data: torch.Tensor, alpha: float) -> torch.Tensor:
    return F.silu(data) if alpha == 1 else data * torch.sigmoid(alpha * data)


def _dropout(builder: Builder, operation: Operation) -> list[Value]:
    """Return the data: at inference nothing is dropped, and the mask says so."""
    operation.ignore("ratio", "seed", "is_test", 1)  # is_test: until opset 6
    training = operation.constant(2)
    if training is not None and bool(training):
        raise operation.unsupported("in training mode")
    data = operation.data()
    return [data, builder.call(_all_kept, data)] if operation.outputs > 1 else [data]


def _all_kept(data: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(data, dtype=torch.bool)


def _cast(builder: Builder, operation: Operation) -> Value:
    operation.ignore("saturate", "round_mode")  # of 8-bit floats, which are refused
    number = operation.get("to", 1)
    kind = TYPES.get(number)
    if kind is None:
        raise operation.unsupported(f"to the type {onnx.TensorProto.DataType.Name(number)}")
    return builder.call(_to, operation.data(), kind)


def _to(data: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return data.to(kind)


def _cast_like(builder: Builder, operation: Operation) -> Value:
    operation.ignore("saturate", "round_mode")
    return builder.call(_to_type_of, operation.data(), operation.data(1))


def _to_type_of(data: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return data.to(other.dtype)


TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}
"""Types of elements by ONNX number; what is not here torch does not compute with on a CPU."""

ELEMENTWISE: dict[str, Handler] = {
    "Abs": _plain(torch.abs),
    "Acos": _plain(torch.acos),
    "Acosh": _plain(torch.acosh),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "Asin": _plain(torch.asin),
    "Asinh": _plain(torch.asinh),
    "Atan": _plain(torch.atan),
    "Atanh": _plain(torch.atanh),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _plain(torch.ceil),
    "Celu": _activation(F.celu, alpha=1.0),
    "Clip": _clip,
    "Cos": _plain(torch.cos),
    "Cosh": _plain(torch.cosh),
    "Div": _plain(_divide),
    "Dropout": _dropout,
    "Elu": _activation(F.elu, alpha=1.0),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Floor": _plain(torch.floor),
    "Gelu": _gelu,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _unchanged,
    "IsNaN": _plain(torch.isnan),
    "LeakyRelu": _activation(F.leaky_relu, alpha=0.01),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "Max": _folded(torch.maximum),
    "Mean": _mean,
    "Min": _folded(torch.minimum),
    "Mish": _plain(F.mish),
    "Mod": _modulo,
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _pow,
    "Reciprocal": _plain(torch.reciprocal),
    "Relu": _plain(F.relu),
    "Round": _plain(torch.round),
    "Selu": _activation(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Shrink": _activation(_shrink, lambd=0.5, bias=0.0),
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Sinh": _plain(torch.sinh),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Sqrt": _plain(torch.sqrt),
    "Sub": _plain(torch.sub),
    "Sum": _folded(torch.add),
    "Swish": _activation(_swish, alpha=1.0),
    "Tan": _plain(torch.tan),
    "Tanh": _plain(torch.tanh),
    "ThresholdedRelu": _activation(_thresholded, alpha=1.0),
    "Where": _plain(torch.where),
    "Xor": _plain(torch.logical_xor),
}
"""Handlers by ONNX name."""
