"""Weights seen by channel: which elements make output channel c, and which read input channel c."""

from __future__ import annotations

from enum import Enum

import torch
from torch import fx

from compress.graph.capture import bind, constant, parameter_name
from compress.graph.op_kind import OpKind
from compress.graph.operators import groups_of, kind_of

__all__ = ["Side", "largest", "scaled", "store", "stored"]


class Side(str, Enum):
    """Side of a layer whose channels are meant."""

    IN = "in"
    OUT = "out"


def largest(layer: fx.Node, weight: torch.Tensor, side: Side) -> torch.Tensor:
    """Largest absolute weight `[channels]` of each input or output channel.

    Args:
        layer: a convolution, transposed convolution or linear call.
        weight: its weight, `[out, in / groups, k...]`, transposed `[in, out / groups, k...]`.
        side: input or output channels.
    """
    grouped = _grouped(layer, weight)
    axis = _axis(layer, side)
    others = [index for index in range(grouped.ndim) if index not in (0, axis)]
    return grouped.abs().amax(others).flatten()


def scaled(layer: fx.Node, weight: torch.Tensor, side: Side, factor: torch.Tensor) -> torch.Tensor:
    """`weight` with channel c multiplied by `factor[c]`; arguments as `largest`."""
    grouped = _grouped(layer, weight)
    axis = _axis(layer, side)
    shape = [size if index in (0, axis) else 1 for index, size in enumerate(grouped.shape)]
    result: torch.Tensor = (grouped * factor.view(shape)).view_as(weight)
    return result


def _grouped(layer: fx.Node, weight: torch.Tensor) -> torch.Tensor:
    """`[groups, first axis / groups, second axis, k...]`; each group connects its own inputs to its own outputs."""
    grouped: torch.Tensor = weight.unflatten(0, (groups_of(layer), -1))
    return grouped


def _axis(layer: fx.Node, side: Side) -> int:
    """Axis of the grouped weight, beside the groups, along which the channels lie."""
    return 1 if (side is Side.OUT) != (kind_of(layer) is OpKind.CONV_TRANSPOSE) else 2


def stored(graph: fx.GraphModule, node: object) -> torch.Tensor:
    """A parameter in double precision."""
    value = constant(graph, node)
    assert value is not None
    return value.double()


def store(graph: fx.GraphModule, node: object, value: torch.Tensor) -> None:
    """Write a parameter back in the type it has."""
    name, before = parameter_name(node), constant(graph, node)
    assert name is not None
    assert before is not None
    bind(graph, name, value.to(before.dtype), trainable=True)
