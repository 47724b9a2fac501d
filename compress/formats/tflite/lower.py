"""A captured graph as LiteRT's converter wants it: batch 1, channels last, every integer weight as a float one with its
own Q/DQ pair.

The converter computes the integers again from `float weight / scale`, which gives back the very same ones because the
float weight was made from them; biases become int32 with scale `input scale x weight scale`, which is what they had.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from torch import fx, nn

from compress.formats.tflite.activations import expand_activations
from compress.formats.tflite.clips import drop_clips
from compress.formats.tflite.fold_rank import fold_ranks
from compress.formats.tflite.nearest import check_nearest
from compress.formats.tflite.repeats import repeats_as_concatenations
from compress.formats.tflite.specialize import batch_of_one
from compress.formats.tflite.stand_ins import StandIn, place_stand_ins
from compress.formats.tflite.strides import pool_strides
from compress.formats.tflite.transposed_conv import TransposedConv, carry_transposed_convs
from compress.graph.capture import bind, call_nodes, constant, layer_name
from compress.support.torch_internals import OpOverload

__all__ = ["ChannelsLast", "lowered", "recurrent_layers"]

_ops = torch.ops.quantized_decomposed
_PAIRS = {
    _ops.dequantize_per_channel.default: _ops.quantize_per_channel.default,
    _ops.dequantize_per_tensor.default: _ops.quantize_per_tensor.default,
}

_PER_TENSOR = (_ops.quantize_per_tensor.default, _ops.dequantize_per_tensor.default)
_SHIFT = 128


class ChannelsLast(nn.Module):
    """Takes `[N, H, W, C]` and hands the wrapped network `[N, C, H, W]`; the converter cancels the transposition."""

    def __init__(
        self,
        network: fx.GraphModule,
        transposed_convs: Mapping[str, TransposedConv],
        stand_ins: Collection[StandIn],
    ) -> None:
        super().__init__()
        self.network = network
        # operators of our own, which the file has to replace
        self.transposed_convs = transposed_convs
        self.stand_ins = stand_ins

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(image.permute(0, 3, 1, 2))
        return logits


def lowered(captured: fx.GraphModule, *, lacks: Collection[str]) -> ChannelsLast:
    """A captured graph ready for LiteRT's converter; `captured` is not changed.

    Args:
        lacks: operators that the device has not.

    Raises:
        StageError: a layer has no exact form in LiteRT; names it.
    """
    graph = copy.deepcopy(captured)
    batch_of_one(graph)
    check_nearest(graph)
    fold_ranks(graph)
    expand_activations(graph, hardswish="HARD_SWISH" in lacks)
    drop_clips(graph)
    pool_strides(graph)
    repeats_as_concatenations(graph)
    transposed_convs = carry_transposed_convs(graph)
    for node in [*graph.graph.nodes]:
        _signed(node)
    stand_ins = place_stand_ins(graph, lacks=lacks)
    for node in [*graph.graph.nodes]:
        if node.target in _PAIRS and constant(graph, node.args[0]) is not None:
            _store_float(graph, node)
    graph.graph.lint()
    graph.recompile()
    return ChannelsLast(graph, transposed_convs, stand_ins).eval()


def _signed(node: fx.Node) -> None:
    """uint8 activations as int8 ones: the same numbers, 128 lower. LiteRT's kernels with a scale per channel have no
    uint8, and one of XNNPACK's ends the process when it is given such a file.
    """
    if node.target in _PER_TENSOR and node.args[-1] is torch.uint8:
        source, scale, zero_point, low, high, _ = node.args
        assert isinstance(zero_point, int)
        assert isinstance(low, int)
        assert isinstance(high, int)
        node.args = (source, scale, zero_point - _SHIFT, low - _SHIFT, high - _SHIFT, torch.int8)


def _store_float(graph: fx.GraphModule, node: fx.Node) -> None:
    """Turn `dequantize(integers)` into `dequantize(quantize(floats))`, or into the floats alone for a bias."""
    source, numbers = node.args[0], node.args[1:]
    integers = constant(graph, source)
    assert isinstance(source, fx.Node)
    assert integers is not None
    values = tuple(number if (value := constant(graph, number)) is None else value for number in numbers)
    assert isinstance(node.target, OpOverload)
    name = f"{source.target}_float"
    bind(graph, name, node.target(integers, *values), trainable=False)
    with graph.graph.inserting_before(node):
        stored = graph.graph.get_attr(name)
        stored.meta = {"val": node.meta.get("val")}
        if integers.dtype is torch.int32:
            node.replace_all_uses_with(stored)
            graph.graph.erase_node(node)
            return
        quantize = _PAIRS[node.target]
        node.replace_input_with(source, graph.graph.call_function(quantize, (stored, *numbers)))


def recurrent_layers(captured: fx.GraphModule) -> list[str]:
    """`rnn (LSTM)`, ...: recurrent layers of a captured graph, which the converter unrolls in float."""
    kinds: dict[object, str] = {torch.ops.aten.lstm: "LSTM", torch.ops.aten.gru: "GRU"}
    kinds |= dict.fromkeys((torch.ops.aten.rnn_tanh, torch.ops.aten.rnn_relu), "RNN")
    layers = [(node, kinds.get(getattr(node.target, "overloadpacket", None))) for node in call_nodes(captured)]
    return [f"{layer_name(node)} ({kind})" for node, kind in layers if kind]
