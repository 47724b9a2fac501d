"""Q/DQ that a user brings, for parsers that read int8 with zero point 0 only.

Exact where codes only move (uint8 around 128), where a missing zero point is written out, and for stored integers of
other types (int32 biases), which become the floats they stand for. What has another zero point is requantized: its
largest magnitude stays and its step grows, `REQUANTIZED` tells by how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.formats.onnx.building import NoOlderForm, attribute_int, constant, operator, scalar
from compress.formats.onnx.parsers.rules import constant_array

__all__ = ["REQUANTIZED", "symmetric_dequantize", "symmetric_quantize"]

REQUANTIZED = "requantized"
"""Metadata of an edited node: the new step over the old one, where rounding changed."""

_Numbers = TypeVar("_Numbers", NDArray[np.float32], NDArray[np.int64])

_LIMITS = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127)}
_MIDDLE = {ir.DataType.UINT8: 128, ir.DataType.INT8: 0}
_LARGEST = 127
_KEEP_CODES = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""What may lie between Q and DQ: it hands on codes whatever they stand for, in their order."""


@dataclass(frozen=True)
class _Scheme:
    """Scales and zero points as ONNX defines them, of equal shape, and the type of the codes."""

    scale: NDArray[np.float32]
    points: NDArray[np.int64]
    dtype: ir.DataType

    @property
    def centred(self) -> bool:
        """Tell whether moving the codes is all there is to do."""
        return bool(np.all(self.points == _MIDDLE[self.dtype]))

    @property
    def growth(self) -> NDArray[np.float64]:
        """The symmetric step over this one, per scale."""
        low, high = _LIMITS[self.dtype]
        reach = np.maximum(self.points - low, high - self.points) / _LARGEST
        return np.where(self.points == _MIDDLE[self.dtype], 1.0, reach)


def symmetric_quantize(node: ir.Node) -> None:
    """Edit QuantizeLinear (13), and every DequantizeLinear that reads its codes, in place.

    Raises:
        NoOlderForm: scales or zero points are computed, or something computes with the codes.
    """
    own = _scheme(node)
    readers = _readers(node.outputs[0])
    schemes = [_scheme(reader) for reader in readers]
    if any(not np.array_equal(scheme.points, own.points) for scheme in schemes):
        raise NoOlderForm("its codes are read with another zero point")
    if not own.centred:
        _keep_clipping(node, own)
        node.metadata_props[REQUANTIZED] = str(float(np.max(own.growth)))
    for edited, scheme in zip((node, *readers), (own, *schemes), strict=True):
        _set_scale(edited, (scheme.scale * own.growth).astype(np.float32))


def symmetric_dequantize(node: ir.Node) -> ir.Value | None:
    """Edit a DequantizeLinear (13) of stored codes in place, or give the floats that they stand for.

    Raises:
        NoOlderForm: scales or zero points are computed, or it reads codes that nobody made symmetric.
    """
    stored = constant_array(node, 0)
    if stored is None:
        scheme = _scheme(node)
        if not (scheme.centred and scheme.dtype is ir.DataType.INT8):
            raise NoOlderForm("its codes do not come from QuantizeLinear")
        _set_scale(node, scheme.scale)
        return None
    if node.inputs[0] is None or node.inputs[0].dtype not in _LIMITS:
        return constant(node, _restored(node, stored, _scheme(node, any_type=True)), "float")
    scheme = _scheme(node)
    wider = (scheme.scale * scheme.growth).astype(np.float32)
    codes = np.rint(_restored(node, stored, scheme) / _spread(node, wider, stored.ndim)).clip(-128, 127)
    node.replace_input_with(0, constant(node, codes.astype(np.int8), "codes"))
    _set_scale(node, wider)
    if not scheme.centred:
        node.metadata_props[REQUANTIZED] = str(float(np.max(scheme.growth)))
    return None


def _scheme(node: ir.Node, *, any_type: bool = False) -> _Scheme:
    scale, points = constant_array(node, 1), constant_array(node, 2)
    point = node.inputs[2] if len(node.inputs) > 2 else None
    if scale is None or (point is not None and points is None):
        raise NoOlderForm("its scale or zero point is computed at run time")
    if np.any(scale <= 0):  # type: ignore[operator]
        raise NoOlderForm("a scale that is not positive")
    dtype = point.dtype if point is not None else _type_without_point(node)
    if dtype is None or (dtype not in _LIMITS and not any_type):
        raise NoOlderForm(f"codes of type {dtype.numpy().name if dtype else 'unknown'}")
    filled = np.zeros(scale.shape) if points is None else points
    return _Scheme(scale.astype(np.float32), np.broadcast_to(filled, scale.shape).astype(np.int64), dtype)


def _type_without_point(node: ir.Node) -> ir.DataType | None:
    """QuantizeLinear gives uint8 then, DequantizeLinear takes what it gets."""
    if node.op_type == "QuantizeLinear":
        return ir.DataType.UINT8
    return node.inputs[0].dtype if node.inputs[0] is not None else None


def _readers(codes: ir.Value) -> list[ir.Node]:
    """The DequantizeLinear nodes behind `codes`; what lies between hands codes on and gets their new type."""
    if codes.is_graph_output():
        raise NoOlderForm("its codes leave the model")
    codes.type = ir.TensorType(ir.DataType.INT8)
    readers: list[ir.Node] = []
    for node in codes.consumers():
        if node.op_type == "DequantizeLinear":
            readers.append(node)
        elif node.op_type in _KEEP_CODES:
            readers += _readers(node.outputs[0])
        else:
            raise NoOlderForm(f"its codes go into {node.op_type} (node {node.name!r})")
    return readers


def _keep_clipping(node: ir.Node, scheme: _Scheme) -> None:
    """Cut off before `node` what its codes cut off: quantizers leave activations out whose work the range does."""
    if scheme.scale.size != 1:
        raise NoOlderForm("zero points that are not 0, one for each channel of an activation")
    low, high = (float((limit - scheme.points.item()) * scheme.scale.item()) for limit in _LIMITS[scheme.dtype])
    x, dtype = node.inputs[0], ir.DataType.FLOAT
    if low == 0:  # fuses into the layer before, and the symmetric codes end where these did
        cut = operator("Relu", x)
    else:
        cut = operator("Clip", x, scalar(node, low, dtype, "low"), scalar(node, high, dtype, "high"))
    new = cut.producer()
    assert new is not None
    assert isinstance(node.graph, ir.Graph)
    new.name = f"{node.name}_range"
    cut.name = new.name
    node.graph.insert_before(node, new)
    node.replace_input_with(0, cut)


def _set_scale(node: ir.Node, scale: NDArray[np.float32]) -> None:
    node.resize_inputs(3)
    node.replace_input_with(1, constant(node, scale, "scale"))
    node.replace_input_with(2, constant(node, np.zeros(scale.shape, np.int8), "zero"))


def _restored(node: ir.Node, stored: NDArray[np.generic], scheme: _Scheme) -> NDArray[np.float32]:
    points = _spread(node, scheme.points, stored.ndim)
    return np.asarray((stored.astype(np.int64) - points) * _spread(node, scheme.scale, stored.ndim), np.float32)


def _spread(node: ir.Node, per_channel: _Numbers, rank: int) -> _Numbers:
    """Numbers along the node's `axis`, ready to broadcast; a single one as it is."""
    if per_channel.size == 1:
        return per_channel.reshape(())
    axis = attribute_int(node, "axis", 1) % rank
    return per_channel.reshape([-1 if index == axis else 1 for index in range(rank)])
