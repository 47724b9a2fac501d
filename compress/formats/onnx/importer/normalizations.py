"""Normalisations over a batch's statistics, groups, layers and neighbouring channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from compress.formats.onnx.importer.builder import Builder, Handler, Operation, Value

__all__ = ["NORMALIZATIONS"]

_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _batch_norm(builder: Builder, operation: Operation) -> Value:
    operation.ignore("momentum", "consumed_inputs", "is_test")  # what training does with the statistics; until opset 6
    if operation.get("training_mode", 0):
        raise operation.unsupported("in training mode")
    if not operation.get("spatial", 1):  # until opset 8
        raise operation.unsupported("with spatial=0")
    scale, offset, mean, variance = (operation.data(index) for index in range(1, 5))
    epsilon = operation.get("epsilon", 1e-5)
    kind = _BATCH_NORMS.get(operation.rank() or 4)
    stored = (scale, offset, mean, variance)
    if kind is None or any(isinstance(value, fx.Node) for value in stored):
        return builder.call(F.batch_norm, operation.data(), mean, variance, scale, offset, False, 0.0, epsilon)
    return builder.module(_filled(kind, stored, epsilon), operation.data(), operation.name)


def _filled(kind: type[nn.Module], stored: tuple[Value, ...], epsilon: float) -> nn.Module:
    scale, offset, mean, variance = (value.float() for value in stored if isinstance(value, torch.Tensor))
    norm = kind(len(mean), eps=epsilon)
    norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(offset)
    norm.running_mean, norm.running_var = mean, variance
    return norm


def _instance_norm(builder: Builder, operation: Operation) -> Value:
    operation.ignore("consumed_inputs")
    scale, offset, epsilon = operation.data(1), operation.data(2), operation.get("epsilon", 1e-5)
    return builder.call(F.instance_norm, operation.data(), None, None, scale, offset, True, 0.0, epsilon)


def _layer_norm(builder: Builder, operation: Operation) -> list[Value]:
    """Result, and where they are asked for mean and inverse deviation."""
    operation.ignore("stash_type")  # of the statistics, in float32 either way
    axis, epsilon, rank = operation.get("axis", -1), operation.get("epsilon", 1e-5), operation.known_rank()
    axes = tuple(range(axis % rank, rank))
    shape = tuple(operation.size(index) for index in axes)
    data, scale, offset = operation.data(), operation.data(1), operation.operand(2)
    if operation.shape(1) == shape and (offset is None or operation.shape(2) == shape):
        result = builder.call(F.layer_norm, data, shape, scale, offset, epsilon)
    else:
        result = builder.call(torch.mul, builder.call(F.layer_norm, data, shape, None, None, epsilon), scale)
        result = result if offset is None else builder.call(torch.add, result, offset)
    if operation.outputs == 1:
        return [result]
    return [
        result,
        builder.call(torch.mean, data, axes, True),
        builder.call(_inverse_deviation, data, axes, epsilon),
    ]


def _inverse_deviation(data: torch.Tensor, axes: tuple[int, ...], epsilon: float) -> torch.Tensor:
    return torch.rsqrt(torch.var(data, axes, correction=0, keepdim=True) + epsilon)


def _group_norm(builder: Builder, operation: Operation) -> Value:
    operation.ignore("stash_type")
    groups, epsilon, channels = operation.get("num_groups", 1), operation.get("epsilon", 1e-5), operation.size(1)
    scale, offset = operation.data(1), operation.data(2)
    if operation.opset < 21:  # one for each group
        scale, offset = (builder.call(torch.repeat_interleave, value, channels // groups) for value in (scale, offset))
    return builder.call(F.group_norm, operation.data(), groups, scale, offset, epsilon)


def _local_response_norm(builder: Builder, operation: Operation) -> Value:
    alpha, beta, bias = operation.get("alpha", 1e-4), operation.get("beta", 0.75), operation.get("bias", 1.0)
    size = operation.get("size", 1)
    if size % 2 == 0:  # which side has one more differs, and no runtime here computes it
        raise operation.unsupported("of an even number of channels")
    return builder.call(F.local_response_norm, operation.data(), size, alpha, beta, bias)


NORMALIZATIONS: dict[str, Handler] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
}
"""Handlers by ONNX name."""
