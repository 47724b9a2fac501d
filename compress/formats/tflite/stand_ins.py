"""Operators of LiteRT that the converter never writes, put into the file in place of ones that it does write.

The converter takes PRELU and ELU apart into float arithmetic. LEAKY_RELU it keeps, in integers. So each such layer
becomes a leaky ReLU before the conversion, with a slope that no other has, and after it the operator with that slope
becomes what it stands for. Both kernels read the scales of their tensors (TensorFlow 2.14,
lite/kernels/activations.cc: `PreluEval`, `EluEval` of int8), so the numbers are the reference's.

    PRELU(x, slopes)    MUL(x, slopes) -> LEAKY_RELU: the converter lays out the slopes as it does the image
    ELU(x)              LEAKY_RELU

A leaky ReLU is a PRELU with one slope, for devices without LEAKY_RELU, and where the slope is not between 0 and 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from torch import fx

from compress.core.errors import StageError
from compress.formats.tflite.activations import is_quantized
from compress.formats.tflite.edit import kind_of, makers_of
from compress.formats.tflite.flatbuffer import (
    GraphEntry,
    ModelEntry,
    OperatorEntry,
    constant_of,
    new_code,
    schema,
    shape_of,
)
from compress.graph.capture import bind, call_nodes, constant, layer_name

__all__ = ["StandIn", "place_stand_ins", "replace_stand_ins"]

aten = torch.ops.aten
_ops = torch.ops.quantized_decomposed
_QUANTIZE = _ops.quantize_per_tensor.default
_DEQUANTIZE = _ops.dequantize_per_tensor.default
_INT8 = (-128, 127, torch.int8)

_FIRST_SLOPE, _SLOPE_STEP = 0.5, 2.0**-20
"""Exact in float32, and between 0 and 1, where the converter knows a leaky ReLU for one."""

_PRELU, _ELU = "PRELU", "ELU"
_VERSION = 1  # of both, int8 or not (op_version.cc)


@dataclass(frozen=True)
class StandIn:
    """One layer.

    Attributes:
        kind: the operator it stands for.
        slope: of the leaky ReLU that stands for it.
        layer: for messages.
    """

    kind: str
    slope: float
    layer: str


def place_stand_ins(graph: fx.GraphModule, *, lacks: Collection[str]) -> list[StandIn]:
    """Rewrite, in place, the PReLUs, ELUs and leaky ReLUs that stand between a dequantize and a quantize.

    Args:
        lacks: operators that the device has not.
    """
    placed: list[StandIn] = []
    slopes = _free_slopes(graph)
    for node in call_nodes(graph):
        kind = _kind(node, lacks) if is_quantized(node) else None
        if kind is None:
            continue
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if kind == _PRELU:
            values = _slopes(graph, node)
            if values is None:
                continue
            source = _product(graph, node, values)
        slope = next(slopes)
        with graph.graph.inserting_before(node):
            leaky = graph.graph.call_function(aten.leaky_relu.default, (source, slope))
        leaky.meta = dict(node.meta)
        node.replace_all_uses_with(leaky)
        placed.append(StandIn(kind, slope, layer_name(node)))
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    return placed


def replace_stand_ins(model: ModelEntry, placed: Collection[StandIn]) -> None:
    """Turn the operators that `place_stand_ins` placed into those they stand for, in place.

    Raises:
        StageError: the converter did not keep one.
    """
    by_slope = {np.float32(entry.slope): entry for entry in placed}
    for graph in model.subgraphs:
        for operator in list(graph.operators):
            if kind_of(model, operator) != "LEAKY_RELU":
                continue
            entry = by_slope.pop(np.float32(getattr(operator.builtinOptions, "alpha", 0.0)), None)
            if entry is not None and not _replace(model, graph, operator, entry.kind):
                raise _lost(entry)
    if by_slope:
        raise _lost(next(iter(by_slope.values())))


def _lost(entry: StandIn) -> StageError:
    return StageError(
        f"layer {entry.layer!r}: the converter did not keep the {entry.kind} in integers", fix="put a ReLU in its place"
    )


def _kind(node: fx.Node, lacks: Collection[str]) -> str | None:
    """The operator that the node is to become; None where the converter writes what is wanted."""
    if node.target is aten.prelu.default:
        return _PRELU
    if node.target is aten.leaky_relu.default:
        return _PRELU if "LEAKY_RELU" in lacks or not 0 < _slope(node) < 1 else None
    is_plain = node.target is aten.elu.default and all(factor == 1 for factor in node.args[1:])
    return _ELU if is_plain and "ELU" not in lacks else None


def _slope(node: fx.Node) -> float:
    value = node.args[1] if len(node.args) > 1 else 0.01
    assert isinstance(value, (int, float))
    return float(value)


def _free_slopes(graph: fx.GraphModule) -> Iterator[float]:
    used = {np.float32(_slope(node)) for node in call_nodes(graph) if node.target is aten.leaky_relu.default}
    slopes = (_FIRST_SLOPE + number * _SLOPE_STEP for number in itertools.count())
    return (slope for slope in slopes if np.float32(slope) not in used)


@dataclass(frozen=True)
class _Stored:
    """Slopes, one or one for each channel, and their grid."""

    values: torch.Tensor
    scale: float
    zero_point: int


def _slopes(graph: fx.GraphModule, node: fx.Node) -> _Stored | None:
    """None where they are computed."""
    if node.target is aten.leaky_relu.default:
        return _symmetric(torch.tensor([_slope(node)]))
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    stored = constant(graph, weight)
    if stored is not None:
        return _symmetric(stored)
    integers = constant(graph, weight.args[0]) if weight.target is _DEQUANTIZE else None
    if integers is None:
        return None
    scale, zero_point = weight.args[1:3]
    assert isinstance(scale, float)
    assert isinstance(zero_point, int)
    codes = integers.float() - (128 if integers.dtype is torch.uint8 else 0)  # the pair is of int8 by now (`lower`)
    return _Stored((codes - zero_point) * scale, scale, zero_point)


def _symmetric(values: torch.Tensor) -> _Stored:
    largest = float(values.abs().max())
    return _Stored(values, (largest or 1.0) / 127, 0)


def _product(graph: fx.GraphModule, node: fx.Node, slopes: _Stored) -> fx.Node:
    """`x * slopes` on the grid of the layer's output, for the converter to lay out."""
    rank = node.meta["val"].ndim
    shape = [-1 if axis == 1 else 1 for axis in range(rank)]
    name = f"{node.name}_slopes"
    bind(graph, name, slopes.values.reshape(shape), trainable=False)
    scale, zero_point = next(iter(node.users)).args[1:3]
    with graph.graph.inserting_before(node):
        stored = _pair(graph, graph.graph.get_attr(name), slopes.scale, slopes.zero_point)
        product = graph.graph.call_function(aten.mul.Tensor, (node.args[0], stored))
        assert isinstance(scale, float)
        assert isinstance(zero_point, int)
        return _pair(graph, product, scale, zero_point)


def _pair(graph: fx.GraphModule, source: fx.Node, scale: float, zero_point: int) -> fx.Node:
    quantized = graph.graph.call_function(_QUANTIZE, (source, scale, zero_point, *_INT8))
    return graph.graph.call_function(_DEQUANTIZE, (quantized, scale, zero_point, *_INT8))


def _replace(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry, kind: str) -> bool:
    """Replace the operator if it is what `place_stand_ins` made of it; tell whether it was."""
    if kind == _PRELU:
        product = makers_of(graph).get(int(operator.inputs[0]))
        if product is None or kind_of(model, product) != "MUL":
            return False
        stored = [constant_of(model, graph.tensors[index]) is not None for index in product.inputs]
        if sum(stored) != 1:
            return False
        source, slopes = product.inputs if stored[1] else product.inputs[::-1]
        operator.inputs = [source, slopes]
        _without_batch(graph, slopes)
        graph.operators.remove(product)
    if graph.tensors[operator.inputs[0]].type != schema().TensorType.INT8:
        return False
    operator.opcodeIndex = new_code(model, kind, _VERSION)
    operator.builtinOptionsType, operator.builtinOptions = schema().BuiltinOptions.NONE, None
    return True


def _without_batch(graph: GraphEntry, index: int) -> None:
    """Slopes have no axis for the batch, and are one value at least."""
    tensor = graph.tensors[index]
    shape = shape_of(tensor)
    tensor.shape, tensor.shapeSignature = list(shape[1:] or shape), None
