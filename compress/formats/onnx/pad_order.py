"""Quantization in front of zero padding, so that the padding can become a part of the convolution behind it.

Frameworks that pad asymmetrically (TensorFlow's SAME in front of a stride of 2) leave a `Pad` of its own:

    Pad(0) -> QuantizeLinear -> DequantizeLinear -> Conv    to    QuantizeLinear -> DequantizeLinear -> Pad(0) -> Conv

Every grid holds the real zero exactly (its zero point), so the two compute the same numbers. Where the input of the
padding was in integers of that grid already, no pair is left, and `Conv` takes asymmetric `pads` of its own: ONNX
Runtime then reads QLinearConv where it padded in float32 between two conversions.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from compress.formats.onnx.replace import replace

__all__ = ["quantize_before_padding"]


def quantize_before_padding(model: ir.Model) -> bool:
    """Move zero padding behind the quantization of what it pads, where only convolutions read it; edits `model`.

    Returns:
        Whether anything moved.
    """
    pads = [node for node in model.graph if node.op_type == "Pad" and _pads_with_zeros(node)]
    moved = [pad for pad in pads if _only_convolutions_read(pad)]
    for pad in moved:
        for quantize in _users(pad):
            _move_behind(quantize, pad)
    common.RemoveUnusedNodesPass()(model)
    return bool(moved)


def _move_behind(quantize: ir.Node, pad: ir.Node) -> None:
    source, (dequantize,) = pad.inputs[0], _users(quantize)
    assert source is not None
    restored = source
    if not _restored_from_same_grid(source, quantize):
        integers = _like(quantize, [source, *quantize.inputs[1:]], shape=source.shape)
        restored = _like(dequantize, [integers, *dequantize.inputs[1:]], shape=source.shape)
    padded = _like(pad, [restored, *pad.inputs[1:]], shape=pad.outputs[0].shape)
    replace(dequantize, [padded])


def _like(node: ir.Node, inputs: list[ir.Value | None], *, shape: ir.Shape | None) -> ir.Value:
    """The output of a new node that does what `node` does, with `inputs`."""
    new = ir.node(node.op_type, inputs, attributes=node.attributes)
    new.outputs[0].shape, new.outputs[0].type = shape, node.outputs[0].type
    return new.outputs[0]


def _pads_with_zeros(pad: ir.Node) -> bool:
    """Tell whether all that is added is the number zero."""
    mode = pad.attributes.get_string("mode", "constant")
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if mode != "constant" or pad.inputs[0] is None:
        return False
    number = _array(value) if value is not None else np.zeros(())
    return number is not None and not np.any(number)


def _only_convolutions_read(pad: ir.Node) -> bool:
    """Tell whether every way from `pad` leads through a pair on one scale to data inputs of `Conv`."""
    users = _users(pad)
    return bool(users) and not pad.outputs[0].is_graph_output() and all(_leads_to_convolutions(user) for user in users)


def _leads_to_convolutions(quantize: ir.Node) -> bool:
    if quantize.op_type != "QuantizeLinear" or quantize.outputs[0].is_graph_output():
        return False
    readers = _users(quantize)
    if len(readers) != 1 or readers[0].op_type != "DequantizeLinear" or readers[0].outputs[0].is_graph_output():
        return False
    scale = _array(quantize.inputs[1])
    convolutions = readers[0].outputs[0].uses()
    return (
        scale is not None
        and scale.size == 1
        and _same_grid(quantize, readers[0])
        and all(use.node.op_type == "Conv" and use.idx == 0 for use in convolutions)
    )


def _restored_from_same_grid(source: ir.Value, quantize: ir.Node) -> bool:
    """Tell whether `source` holds integers of `quantize`'s grid, restored: quantizing them again changes nothing."""
    producer = source.producer()
    return producer is not None and producer.op_type == "DequantizeLinear" and _same_grid(quantize, producer)


def _same_grid(quantize: ir.Node, dequantize: ir.Node) -> bool:
    if len(quantize.inputs) != 3 or len(dequantize.inputs) != 3:
        return False
    for mine, its in zip(quantize.inputs[1:], dequantize.inputs[1:], strict=True):
        left, right = _array(mine), _array(its)
        if left is None or right is None or left.dtype != right.dtype or not np.array_equal(left, right):
            return False
    return True


def _array(value: ir.Value | None) -> NDArray[np.generic] | None:
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def _users(node: ir.Node) -> list[ir.Node]:
    return [use.node for use in node.outputs[0].uses()]
