"""Weights that a file computes from constants on every start, written out as the constants they are.

The exporter's optimizer leaves large constants alone, so the gates of an LSTM arrive as Slice and Concat of PyTorch's
weights. Only what leads to a weight is folded: elsewhere folding would make the file larger.
"""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer

from compress.support.quiet import quiet

__all__ = ["fold_weights"]

_WEIGHT_INPUTS = {"MatMul": (1,), "Gemm": (1,), "LSTM": (1, 2, 3)}
_NO_LIMIT = 2**31


def fold_weights(model: ir.Model) -> None:
    """Fold the constant nodes that lead to the weights of MatMul, Gemm and LSTM, in place.

    A lone Transpose stays: its source may have other users, and it is read through.
    """
    chosen: set[ir.Node] = set()
    for node in model.graph:
        for position in _WEIGHT_INPUTS.get(node.op_type, ()):
            value = node.inputs[position] if position < len(node.inputs) else None
            nodes = _constant_nodes(value) or set()
            if [maker.op_type for maker in nodes] != ["Transpose"]:
                chosen |= nodes
    if not chosen:
        return
    with quiet():
        onnxscript.optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=_NO_LIMIT,
            output_size_limit=_NO_LIMIT,
            should_fold=lambda node: node in chosen,
        )


def _constant_nodes(value: ir.Value | None) -> set[ir.Node] | None:
    """The nodes that compute `value` from constants; None when it depends on the model's input."""
    producer = value.producer() if value is not None else None
    if value is None or producer is None:
        return None if value is not None and value.const_value is None else set()
    if producer.op_type == "Constant":
        return set()
    nodes = {producer}
    for upstream in producer.inputs:
        constants = _constant_nodes(upstream)
        if constants is None:
            return None
        nodes |= constants
    return nodes
