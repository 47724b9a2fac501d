"""Global pooling that keeps two dimensions of size one, only for the next node to drop them."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["flatten_in_pooling"]

_FLATTENERS = ("Reshape", "Flatten", "Squeeze")
_MAPS = 4
"""Rank of `[N, C, H, W]`."""


def flatten_in_pooling(model: ir.Model) -> None:
    """Rewrite ReduceMean over H and W, then Reshape to `[N, C]`, as ReduceMean without `keepdims`, in place."""
    for node in tuple(model.graph):
        flattener = _flattener(node)
        if flattener is None:
            continue
        node.attributes["keepdims"] = ir.AttrInt64("keepdims", 0)
        mean, flat = node.outputs[0], flattener.outputs[0]
        mean.shape, name = flat.shape, flat.name
        flat.replace_all_uses_with(mean, replace_graph_outputs=True)
        model.graph.remove(flattener, safe=True)
        mean.name = name


def _flattener(node: ir.Node) -> ir.Node | None:
    """The one node behind a spatial mean, if it does no more than drop the reduced dimensions."""
    if node.op_type != "ReduceMean" or node.domain or node.outputs[0].is_graph_output():
        return None
    keeps = node.attributes.get_int("keepdims", 1)
    uses = node.outputs[0].uses()
    if not keeps or len(uses) != 1 or not _spatial(node):
        return None
    ((follower, index),) = uses
    if index != 0 or follower.domain or follower.op_type not in _FLATTENERS or follower.graph is not node.graph:
        return None
    return follower if _keeps_channels(node.inputs[0], follower.outputs[0]) else None


def _spatial(node: ir.Node) -> bool:
    """Tell whether it averages the last two of four axes (`axes`: an attribute before opset 18, then an input)."""
    source = node.inputs[0]
    if source is None or source.shape is None or len(source.shape) != _MAPS:
        return False
    axes: tuple[int, ...] = ()
    if "axes" in node.attributes:
        axes = tuple(node.attributes["axes"].as_ints())
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(node.inputs[1])
        axes = () if tensor is None else tuple(int(axis) for axis in tensor.numpy().reshape(-1))
    return sorted(axis % _MAPS for axis in axes) == [2, 3]


def _keeps_channels(maps: ir.Value | None, flat: ir.Value) -> bool:
    """Tell whether `flat` is `[N, C]`: with C columns, N C values can only make N rows."""
    if maps is None or maps.shape is None or flat.shape is None or len(flat.shape) != 2:
        return False
    channels = maps.shape[1]
    return isinstance(channels, int) and flat.shape[1] == channels
