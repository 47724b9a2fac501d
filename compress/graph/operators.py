"""Roles of ATen operators for a placement policy, and which of their arguments are activations."""

from __future__ import annotations

import math
import operator

import torch
from torch import fx

from compress.graph.capture import parameter_name, tensor_inputs
from compress.graph.op_kind import OpKind
from compress.support.torch_internals import OpOverloadPacket

__all__ = [
    "WEIGHTED",
    "activations",
    "bias_of",
    "clip_range",
    "groups_of",
    "kind_of",
    "lossless_range",
    "output_axis",
    "pads_with_another_value",
    "weight_of",
]

aten = torch.ops.aten

_GROUPS = 6  # position of `groups` in the schemas of convolutions and of transposed convolutions

WEIGHTED = frozenset({OpKind.CONV, OpKind.CONV_TRANSPOSE, OpKind.LINEAR})
"""Kinds whose arguments are `(activation, weight, bias, ...)`."""

_KINDS: dict[OpKind, tuple[OpOverloadPacket, ...]] = {
    OpKind.CONV: (aten.conv1d, aten.conv2d, aten.conv3d),
    OpKind.CONV_TRANSPOSE: (aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d),
    OpKind.LINEAR: (aten.linear,),
    OpKind.MATMUL: (aten.matmul, aten.bmm, aten.mm),
    OpKind.ADD: (aten.add,),
    OpKind.MUL: (aten.mul,),
    OpKind.CONCAT: (aten.cat, aten.concat, aten.concatenate),
    OpKind.RELU: (aten.relu,),
    OpKind.CLIP: (aten.relu6, aten.hardtanh, aten.clamp),
    OpKind.LEAKY_RELU: (aten.leaky_relu,),
    OpKind.HARDSWISH: (aten.hardswish,),
    OpKind.HARDSIGMOID: (aten.hardsigmoid,),
    OpKind.SIGMOID: (aten.sigmoid,),
    OpKind.SILU: (aten.silu,),
    OpKind.GELU: (aten.gelu,),
    OpKind.TANH: (aten.tanh,),
    OpKind.SOFTMAX: (aten.softmax, aten._softmax),
    OpKind.LOG_SOFTMAX: (aten.log_softmax, aten._log_softmax),
    OpKind.MAX_POOL: (aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.adaptive_max_pool2d),
    OpKind.AVG_POOL: (aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.adaptive_avg_pool2d),
    OpKind.RESIZE: (aten.upsample_nearest2d, aten.upsample_bilinear2d),
    OpKind.PAD: (aten.pad, aten.constant_pad_nd),
    OpKind.RESHAPE: (aten.view, aten.reshape, aten.flatten, aten.unflatten, aten.squeeze, aten.unsqueeze),
    OpKind.TRANSPOSE: (
        *(aten.transpose, aten.permute, aten.contiguous, aten.channel_shuffle, aten.pixel_shuffle),
        *(
            aten.pixel_unshuffle,
            aten.movedim,
            aten.moveaxis,
            aten.swapaxes,
            aten.swapdims,
            aten.numpy_T,
            aten.mT,
            aten.t,
        ),
    ),
    OpKind.SLICE: (aten.slice, aten.select, aten.expand, aten.narrow),
    OpKind.SPLIT: (aten.chunk, aten.split, aten.split_with_sizes, aten.tensor_split, aten.unbind),
    OpKind.REARRANGE: (
        *(aten.flip, aten.roll, aten.rot90, aten.repeat, aten.tile, aten.repeat_interleave, aten.expand_as),
        *(aten.index, aten.index_select, aten.gather, aten.take_along_dim, aten.unfold),
    ),
    OpKind.NORMALIZATION: (aten.batch_norm, aten.layer_norm, aten.group_norm, aten.instance_norm),
}
_KIND_OF: dict[object, OpKind] = {packet: kind for kind, packets in _KINDS.items() for packet in packets}


def kind_of(node: fx.Node) -> OpKind:
    """The operator's kind; picking a piece of a split counts as splitting, one of an LSTM's results does not.

    A clip counts as one only if it starts at zero: that end of the integer range is exact, so the range can stand for
    the clip. No grid with an offset hits two arbitrary ends.
    """
    if node.target is operator.getitem:
        whole = node.args[0]
        split = isinstance(whole, fx.Node) and _KIND_OF.get(_packet(whole)) is OpKind.SPLIT
        return OpKind.SPLIT if split else OpKind.OTHER
    kind = _KIND_OF.get(_packet(node), OpKind.OTHER)
    return OpKind.OTHER if kind is OpKind.CLIP and clip_range(node)[0] != 0 else kind


def activations(node: fx.Node) -> list[fx.Node]:
    """The tensors that flow into an operator: all float tensors it reads, less its weight and bias."""
    if kind_of(node) in WEIGHTED:
        return tensor_inputs(node)[:1]
    source = node.args[0] if node.args else None
    if node.target is operator.getitem and isinstance(source, fx.Node):
        return [source]  # a list of tensors, which is no tensor itself
    return tensor_inputs(node)


def weight_of(node: fx.Node) -> fx.Node | None:
    """The stored weight of a weighted operator; None where it is computed."""
    weight = node.args[1] if kind_of(node) in WEIGHTED else None
    return weight if isinstance(weight, fx.Node) and parameter_name(weight) else None


def bias_of(node: fx.Node) -> fx.Node | None:
    """The stored bias of a weighted operator, if it has one."""
    bias = node.args[2] if kind_of(node) in WEIGHTED and len(node.args) > 2 else None
    return bias if isinstance(bias, fx.Node) and parameter_name(bias) else None


def groups_of(layer: fx.Node) -> int:
    """Number of groups of a convolution, transposed convolution or linear call."""
    number = layer.args[_GROUPS] if kind_of(layer) is not OpKind.LINEAR and len(layer.args) > _GROUPS else 1
    assert isinstance(number, int)
    return number


def output_axis(node: fx.Node) -> int:
    """Axis of a weight along which the output channels lie."""
    return 1 if kind_of(node) is OpKind.CONV_TRANSPOSE else 0


def lossless_range(node: fx.Node) -> tuple[float, float]:
    """Inputs outside this interval give the same output as its nearest end, so integers need not reach beyond it."""
    match _KIND_OF.get(_packet(node)):
        case OpKind.RELU:
            return 0.0, math.inf
        case OpKind.HARDSWISH:
            return -3.0, math.inf
        case OpKind.HARDSIGMOID:
            return -3.0, 3.0
        case OpKind.CLIP:
            return clip_range(node)
        case _:
            return -math.inf, math.inf


def pads_with_another_value(node: fx.Node) -> bool:
    """Tell whether it is a padding whose number may lie outside its input's range.

    Zero is on every grid. A number that a maximum pooling loses (negative and far away, as in `-inf`) may be clipped:
    each window that holds any value of the input is larger.
    """
    value = _padding_value(node)
    if value in (0.0, None) or math.isinf(value):
        return False
    readers = _readers(node)
    pools = [reader for reader in readers if kind_of(reader) is OpKind.MAX_POOL]
    return value > 0 or len(pools) < len(readers) or not all(_sees_input(node, pool) for pool in pools)


def _readers(node: fx.Node) -> list[fx.Node]:
    """The operators that read a tensor, be a quantizer in between or not."""
    nested = [_readers(user) if user.op == "call_module" else [user] for user in node.users]
    return [reader for readers in nested for reader in readers]


def _padding_value(node: fx.Node) -> float | None:
    """The number that a padding fills with; None for other operators and for padding by the input's own values."""
    if _packet(node) not in (aten.pad, aten.constant_pad_nd):
        return None
    arguments = [value for value in (*node.args[2:], *node.kwargs.values()) if value is not None]
    if any(isinstance(value, str) and value != "constant" for value in arguments):
        return None
    return next((float(value) for value in arguments if isinstance(value, (int, float))), 0.0)


def _sees_input(pad: fx.Node, pool: fx.Node) -> bool:
    """Tell whether no window of a pooling lies in the padding alone."""
    kernel, widths = pool.args[1] if len(pool.args) > 1 else 1, pad.args[1]
    assert isinstance(widths, (list, tuple))
    sizes = list(kernel) if isinstance(kernel, (list, tuple)) else [kernel] * (len(widths) // 2)
    axes = sizes[::-1]  # widths come last axis first, before and after
    widest = [max(pair) for pair in zip(widths[::2], widths[1::2], strict=True)]
    return all(
        isinstance(width, int) and isinstance(size, int) and width < size
        for width, size in zip(widest, axes, strict=False)
    )


def clip_range(node: fx.Node) -> tuple[float, float]:
    """Lowest and highest output of a clamp by numbers, hardtanh or ReLU6; infinite where it has no bound."""
    packet = _packet(node)
    if packet is aten.relu6:
        return 0.0, 6.0
    defaults = (-1.0, 1.0) if packet is aten.hardtanh else (None, None)
    bounds = (*node.args[1:3], *defaults[len(node.args) - 1 :])
    low, high = (bound if isinstance(bound, (int, float)) else None for bound in bounds[:2])
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _packet(node: fx.Node) -> object:
    return getattr(node.target, "overloadpacket", None)
