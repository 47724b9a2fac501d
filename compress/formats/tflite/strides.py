"""Slices that skip rows and columns (`x[:, :, ::2, ::2]`), written as a pooling of single pixels.

The shortcuts of the CIFAR ResNets (He et al. 2015, option A) take every other pixel. LiteRT has STRIDED_SLICE for that,
which the Edge TPU maps with strides of 1 only, so that everything behind the first shortcut would stay on the CPU. A
maximum over one pixel is that pixel: MAX_POOL_2D with a 1x1 kernel and the slice's step as stride gives the very same
integers, and is mapped.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from torch import fx

from compress.graph.capture import call_nodes, only_user

__all__ = ["pool_strides"]

aten = torch.ops.aten
_ops = torch.ops.quantized_decomposed
_QUANTIZE = _ops.quantize_per_tensor.default
_DEQUANTIZE = _ops.dequantize_per_tensor.default
_POOL = aten.max_pool2d.default
_SPACE = (2, 3)  # axes of [N, C, H, W] that a pooling strides over
_END = 2**63 - 1  # how aten.slice spells "to the end"


def pool_strides(graph: fx.GraphModule) -> int:
    """Rewrite, in place, every slice with a step over height or width; returns how many poolings came of them."""
    pools = [_pooled(graph, node) for node in call_nodes(graph) if _skips_pixels(node)]
    merged = sum(_merged(graph, pool) for pool in pools)
    return len(pools) - merged


def _skips_pixels(node: fx.Node) -> bool:
    if node.target is not aten.slice.Tensor or not isinstance(node.args[0], fx.Node):
        return False
    source = node.args[0].meta.get("val")
    axis, _, _, step = _range(node)
    return isinstance(source, torch.Tensor) and source.ndim == 4 and axis % 4 in _SPACE and step > 1


def _range(node: fx.Node) -> tuple[int, int, int, int]:
    """`(axis, start, end, step)` of a slice, with its defaults; a step of 0 where one of them is not a number."""
    arguments: list[object] = list(node.args[1:])
    defaults: list[object] = [0, None, None, 1]
    axis, start, end, step = [*arguments, *defaults[len(arguments) :]]
    start, end = 0 if start is None else start, _END if end is None else end
    if isinstance(axis, int) and isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        return axis, start, end, step
    return 0, 0, 0, 0


def _pooled(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The pooling in place of a slice; what the slice leaves out at its ends is cut off before."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    axis, start, end, step = _range(node)
    axis %= 4
    size = source.meta["val"].shape[axis]
    with graph.graph.inserting_before(node):
        if start != 0 or end < size:
            cut = graph.graph.call_function(aten.slice.Tensor, (source, axis, start, end))
            cut.meta = {**node.meta, "val": source.meta["val"].narrow(axis, 0, len(range(*_ends(start, end, size))))}
            source = cut
        stride = [step if axis == other else 1 for other in _SPACE]
        pool = graph.graph.call_function(_POOL, (source, [1, 1], stride))
    pool.meta = dict(node.meta)
    node.replace_all_uses_with(pool)
    graph.graph.erase_node(node)
    return pool


def _ends(start: int, end: int, size: int) -> tuple[int, int]:
    """First and last index as a slice of `size` elements takes them."""
    first, last, _ = slice(start, end).indices(size)
    return first, last


def _merged(graph: fx.GraphModule, pool: fx.Node) -> bool:
    """Take a pooling into the one before it, where nothing but its own quantization lies between."""
    assert isinstance(pool.args[0], fx.Node)
    chain = [pool.args[0]]
    while chain[-1].target in (_QUANTIZE, _DEQUANTIZE) and isinstance(chain[-1].args[0], fx.Node):
        chain.append(chain[-1].args[0])
    *between, first = chain
    if first.target is not _POOL or first.args[1] != [1, 1] or any(only_user(node) is None for node in chain):
        return False
    source = first.args[0]
    assert isinstance(source, fx.Node)
    if any(node.args[1:] != source.args[1:] for node in between):  # another scale would round
        return False
    strides = [stride * factor for stride, factor in zip(_stride(first), _stride(pool), strict=True)]
    pool.args = (source, [1, 1], strides)
    for node in chain:
        graph.graph.erase_node(node)
    return True


def _stride(pool: fx.Node) -> list[int]:
    stride = pool.args[2]
    assert isinstance(stride, list)
    return stride
