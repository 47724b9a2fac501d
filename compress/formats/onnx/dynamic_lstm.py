"""LSTM layers with int8 weights: ONNX Runtime's own operator DynamicQuantizeLSTM.

ONNX has no integer LSTM. This one takes the inputs of LSTM in the same places, with both weights as int8 and
transposed, then their scales and zero points (onnxruntime, docs/ContribOperators.md). It quantizes the activations as
it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compress.formats.onnx.building import constant
from compress.formats.onnx.integer_weights import per_output
from compress.formats.onnx.linear_layers import StaysFloat, finite, names_of
from compress.formats.onnx.replace import replace

__all__ = ["Lstm", "find_lstms", "quantize_lstms"]

_DOMAIN = "com.microsoft"
_WEIGHTS = {1: "W", 2: "R"}
"""Inputs that are weights, `[directions, 4 hidden, K]`: K is the layer's input for W and its hidden state for R."""

_PLAIN_INPUTS = 8  # X, W, R, B, sequence_lens, initial_h, initial_c, P


@dataclass(frozen=True, eq=False)
class Lstm:
    """An LSTM node with constant weights; `names` is what a pattern may call it."""

    node: ir.Node
    names: tuple[str, ...]


def find_lstms(model: ir.Model) -> tuple[list[Lstm], list[StaysFloat]]:
    """LSTM nodes that can be quantized, in execution order, and those that cannot."""
    lstms, others = [], []
    for node in model.graph.all_nodes():
        if node.op_type != "LSTM" or node.domain not in ("", "ai.onnx"):
            continue
        reason = _obstacle(node, model.graph)
        if reason:
            others.append(StaysFloat(node.name or "", node.op_type, reason))
        else:
            lstms.append(Lstm(node, names_of(node, node.inputs[1])))
    return lstms, others


def quantize_lstms(model: ir.Model, lstms: Sequence[Lstm], *, per_channel: bool, limit: int) -> None:
    """Rewrite `lstms` in place; biases, initial states and peepholes stay float.

    Args:
        per_channel: a weight scale for every gate and hidden unit instead of one per direction.
        limit: largest weight code.
    """
    for lstm in lstms:
        model.opset_imports[_DOMAIN] = 1
        node = lstm.node
        inputs = [*node.inputs, *[None] * (_PLAIN_INPUTS - len(node.inputs))]
        for position, role in _WEIGHTS.items():
            weight = node.inputs[position]
            assert weight is not None
            quantized = [
                per_output(direction, limit=limit, shared=not per_channel)
                for direction in finite(weight, lstm.names[0])
            ]
            inputs[position] = constant(node, np.stack([part.codes.T for part in quantized]), role)
            scales = np.stack([part.scales for part in quantized])
            inputs.append(constant(node, scales, f"{role}_scale"))
            inputs.append(constant(node, np.zeros_like(scales, np.int8), f"{role}_zero_point"))
        attributes = [attribute for name, attribute in node.attributes.items() if name != "layout"]
        new = ir.Node(_DOMAIN, "DynamicQuantizeLSTM", inputs, attributes, num_outputs=len(node.outputs))
        replace(node, new.outputs)


def _obstacle(node: ir.Node, main: ir.Graph) -> str | None:
    """Return why `node` stays float; None if it need not."""
    if node.graph is not main:
        return "it is inside the body of a control-flow operator"
    if node.attributes.get_int("layout", 0):
        return "ONNX Runtime has no kernel for layout=1"
    for position in _WEIGHTS:
        weight = node.inputs[position]
        if weight is None or ir.convenience.get_const_tensor(weight) is None:
            return "its weights are computed at run time"
        if weight.dtype is not ir.DataType.FLOAT:
            return f"its weights are {weight.dtype}"
    return None
