"""Activations that the QuantizeLinear behind them performs already."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["drop_saturated_activations"]

_STORED = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "uint16": (0, (1 << 16) - 1),
}
"""Least and largest integer by NumPy's name of the type."""


def drop_saturated_activations(model: ir.Model) -> None:
    """Remove every Relu and Clip that only QuantizeLinear reads and whose limits it has itself, in place.

    QuantizeLinear computes `q(v) = saturate(round(v / scale) + zero_point)`, which is monotonic. Where `q(low)` is the
    least and `q(high)` the largest integer, every v outside of [low, high] is stored as those integers with or without
    the activation, so the result is equal bit by bit. With symmetric scales q(0) is in the middle and nothing matches.
    """
    for node in tuple(model.graph):
        limits = _limits(node)
        if limits is None or node.outputs[0].is_graph_output() or not _absorbed(node.outputs[0], *limits):
            continue
        source = node.inputs[0]
        assert source is not None
        node.outputs[0].replace_all_uses_with(source)
        model.graph.remove(node, safe=True)


def _limits(node: ir.Node) -> tuple[float, float] | None:
    """The range `[low, high]` an activation limits its input to; None for other nodes and unknown limits."""
    if node.domain:
        return None
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    low, high = (_scalar(node, position, default) for position, default in ((1, -np.inf), (2, np.inf)))
    return None if low is None or high is None else (low, high)


def _scalar(node: ir.Node, position: int, default: float) -> float | None:
    """An optional constant scalar input; None if it is computed."""
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None:
        return default
    constant = _constant(value)
    return float(constant.reshape(())) if constant is not None and constant.size == 1 else None


def _absorbed(activation: ir.Value, low: float, high: float) -> bool:
    uses = activation.uses()
    return bool(uses) and all(_saturates(node, index, low, high) for node, index in uses)


def _saturates(node: ir.Node, index: int, low: float, high: float) -> bool:
    """Tell whether `node` is a QuantizeLinear that stores `low` as its least and `high` as its largest integer."""
    if node.op_type != "QuantizeLinear" or node.domain or index != 0 or len(node.inputs) < 3:
        return False
    scale, zero_point = _constant(node.inputs[1]), _constant(node.inputs[2])
    if scale is None or zero_point is None or zero_point.dtype.name not in _STORED or scale.dtype != np.float32:
        return False
    least, largest = _STORED[zero_point.dtype.name]
    lowest, highest = (_unsaturated(limit, scale, zero_point) for limit in (low, high))
    return bool((lowest <= least).all() and (highest >= largest).all())


def _unsaturated(limit: float, scale: NDArray[np.generic], zero_point: NDArray[np.generic]) -> NDArray[np.float32]:
    """`round(limit / scale) + zero_point` in float32 and half to even, as the operator's specification says."""
    stored: NDArray[np.float32] = np.rint(np.float32(limit) / scale.astype(np.float32)) + zero_point.astype(np.float32)
    return stored


def _constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()
