"""Transposed convolutions as one TRANSPOSE_CONV with our integers.

The converter writes them in float, or not at all where the padding differs between the ends. So they travel through it
as an operator of our own (a StableHLO composite), in whose place the file gets TRANSPOSE_CONV:

* a weight `[O, H, W, I]` with a scale per output channel, a bias of 32 bits, the input's and the output's own scales;
* a dilation as zeros between the weights, groups as zeros beside them (a block-diagonal weight: exact, and `groups`
  times larger);
* a padding that `SAME` does not mean as the whole result, of which a SLICE takes the middle; rows that `output_padding`
  adds beyond it as zeros at the end of the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from compress.formats.tflite.specialize import shape_before_export
from compress.graph.capture import call_nodes, constant
from compress.graph.operators import groups_of

__all__ = ["COMPOSITE", "TransposedConv", "carry_transposed_convs"]

aten = torch.ops.aten
_CALLS = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input})
COMPOSITE = "edge_compress.transposed_conv."


@dataclass(frozen=True)
class TransposedConv:
    """Facts that the file needs to know of a layer.

    Attributes:
        weight: `[O, H, W, I]`, int8 or float32.
        scale: of the weight, one number for each output channel; None for a float weight.
        bias: `[O]`, int32 or float32.
        bias_scale: of an int32 bias, `input scale x weight scale`.
        stride: vertical and horizontal.
        same: the file's padding is SAME and gives the result at once; else the result is the window that starts at
            `offset` in what VALID gives.
        offset: rows and columns.
    """

    weight: NDArray[np.generic]
    scale: NDArray[np.float32] | None
    bias: NDArray[np.generic] | None
    bias_scale: NDArray[np.float32] | None
    stride: tuple[int, int]
    same: bool
    offset: tuple[int, int]

    def whole(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what VALID gives for an input of `size`."""
        sides = zip(size, self.stride, self.weight.shape[1:3], strict=True)
        height, width = ((side - 1) * stride + kernel for side, stride, kernel in sides)
        return height, width


def carry_transposed_convs(graph: fx.GraphModule) -> dict[str, TransposedConv]:
    """Put, in place, an operator of our own where a transposed convolution is; what each stands for, by its name."""
    layers: dict[str, TransposedConv] = {}
    for node in call_nodes(graph):
        if node.target in _CALLS and _stored(graph, node.args[1]) is not None:
            name = f"{COMPOSITE}{node.name}"
            layers[name] = _layer(graph, node)
            _carry(graph, node, name)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return layers


def _carry(graph: fx.GraphModule, node: fx.Node, name: str) -> None:
    flat = node.target is aten.conv_transpose1d.default
    shape = shape_before_export(node)
    size = (1, *((1,) if flat else ()), *shape[2:], shape[1])  # [1, H, W, O]

    def stand_in(image: torch.Tensor) -> torch.Tensor:
        from litert_torch.backend.composite import StableHLOCompositeBuilder

        builder = StableHLOCompositeBuilder(name, attr={})
        marked: torch.Tensor = builder.mark_inputs(image)
        result: torch.Tensor = builder.mark_outputs(marked.reshape(-1)[:1].reshape(1, 1, 1, 1).expand(size))
        return result

    with graph.graph.inserting_before(node):
        source = node.args[0]
        if flat:
            source = graph.graph.call_function(aten.unsqueeze.default, (source, 2))
        channels_last = graph.graph.call_function(aten.permute.default, (source, [0, 2, 3, 1]))
        carried = graph.graph.call_function(stand_in, (channels_last,))
        result = graph.graph.call_function(aten.permute.default, (carried, [0, 3, 1, 2]))
        if flat:
            result = graph.graph.call_function(aten.reshape.default, (result, list(shape)))
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)


def _layer(graph: fx.GraphModule, node: fx.Node) -> TransposedConv:
    stride, padding, extra, dilation = _numbers(node)
    weight, scale = _weight(graph, node)
    bias = _stored(graph, node.args[2] if len(node.args) > 2 else None)
    tail = [max(0, more - less) for more, less in zip(extra, padding, strict=True)]
    weight = _spread(weight, dilation, tail)
    kernel = weight.shape[1:3]
    same = not any(extra) and all(
        1 <= size - 2 * less <= step for size, less, step in zip(kernel, padding, stride, strict=True)
    )
    values, steps = (None, None) if bias is None else bias
    return TransposedConv(
        weight=weight,
        scale=scale,
        bias=None if values is None else values.numpy(),
        bias_scale=None if steps is None else steps.numpy().astype(np.float32).reshape(-1),
        stride=stride,
        same=same,
        offset=padding,
    )


def _numbers(node: fx.Node) -> list[tuple[int, int]]:
    """Stride, padding, output padding and dilation, each vertical and horizontal."""
    names = (("stride", 3, 1), ("padding", 4, 0), ("output_padding", 5, 0), ("dilation", 7, 1))
    flat = node.target is aten.conv_transpose1d.default
    numbers: list[tuple[int, int]] = []
    for name, index, default in names:
        value = node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
        values = [int(str(entry)) for entry in (value if isinstance(value, (list, tuple)) else [value])]
        numbers.append((default, values[0]) if flat else (values[0], values[-1]))
    return numbers


def _weight(graph: fx.GraphModule, node: fx.Node) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """`[O, H, W, I]` of a stored `[I, O / groups, (H,) W]`, and a scale for each output channel."""
    stored = _stored(graph, node.args[1])
    assert stored is not None
    values, scale = stored
    if values.ndim == 3:
        values = values.unsqueeze(2)
    groups = groups_of(node)
    size = values.shape[0] // groups
    dense = values.new_zeros(values.shape[0], values.shape[1] * groups, *values.shape[2:])
    for index in range(groups):
        rows = slice(index * size, (index + 1) * size)
        dense[rows, index * values.shape[1] : (index + 1) * values.shape[1]] = values[rows]
    outputs = dense.shape[1]
    weight: NDArray[np.generic] = dense.permute(1, 2, 3, 0).contiguous().numpy()
    if scale is None:
        return weight, None
    return weight, np.broadcast_to(scale.numpy().reshape(-1), (outputs,)).astype(np.float32)


def _stored(graph: fx.GraphModule, node: object) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """A parameter: floats, or the integers that are dequantized and their scales."""
    values = constant(graph, node)
    if values is not None:
        return values, None
    if not isinstance(node, fx.Node) or "dequantize_per" not in str(node.target):
        return None
    integers = constant(graph, node.args[0])
    scale = constant(graph, node.args[1])
    if integers is None:
        return None
    return integers, torch.tensor([float(str(node.args[1]))]) if scale is None else scale


def _spread(weight: NDArray[np.generic], dilation: tuple[int, int], tail: Sequence[int]) -> NDArray[np.generic]:
    """Spread a kernel: zeros between the rows and columns, and behind them."""
    if dilation == (1, 1) and not any(tail):
        return weight
    outputs, *kernel, inputs = weight.shape
    size = [(side - 1) * step + 1 + more for side, step, more in zip(kernel, dilation, tail, strict=True)]
    spread = np.zeros((outputs, *size, inputs), weight.dtype)
    ends = [side - more for side, more in zip(size, tail, strict=True)]
    spread[:, : ends[0] : dilation[0], : ends[1] : dilation[1]] = weight
    return spread
