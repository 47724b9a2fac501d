"""PyTorch to TFLite through LiteRT-torch, which keeps the scales that our Q/DQ operators carry."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from compress.core.errors import MissingExtra
from compress.formats.tflite.flatbuffer import unpack
from compress.formats.tflite.lower import lowered
from compress.formats.tflite.nearest import correct_nearest
from compress.formats.tflite.refusals import untranslatable
from compress.formats.tflite.stand_ins import replace_stand_ins
from compress.formats.tflite.write_transposed_conv import write_transposed_convs
from compress.graph.capture import bind, call_nodes, capture
from compress.support.quiet import quiet_native

if TYPE_CHECKING:
    from torch import fx, nn

    from compress.core.artifact import InputSpec
    from compress.formats.tflite.flatbuffer import ModelEntry
    from compress.formats.tflite.lower import ChannelsLast

__all__ = ["convert_module", "require_converter"]


def require_converter() -> None:
    """Say what is missing before any work.

    Raises:
        MissingExtra: `litert-torch` is not installed; it has no wheel for aarch64 Linux, so a Pi cannot convert.
    """
    try:
        with quiet_native():
            import litert_torch
    except ImportError as error:
        raise MissingExtra(
            "litert-torch", extra="tflite", needed_for="writing .tflite files (x86-64 or macOS)"
        ) from error
    del litert_torch


def convert_module(module: nn.Module, spec: InputSpec, *, lacks: Collection[str] = ()) -> ModelEntry:
    """The `.tflite` model of a module, NHWC in, batch 1, as the converter writes it and with what that cannot write.

    A float module gives a float file; explicit Q/DQ operators become the file's quantization, number by number.

    Args:
        lacks: operators (`HARD_SWISH`) that the device has not and that are to be written as others.

    Raises:
        MissingExtra: the converter is not installed.
        ModelError: the module cannot be captured.
        StageError: an operator has no form in LiteRT; names it and the layer that calls it.
    """
    require_converter()
    graph = capture(module, spec, dynamic_batch=False)
    _store_row_by_row(graph)
    network = lowered(graph, lacks=lacks)
    try:
        with quiet_native(), torch.no_grad():
            model = unpack(_convert(network, spec))
    except Exception as error:  # the converter's stages raise whatever their libraries raise
        raise untranslatable(error, graph) from error
    correct_nearest(model)
    write_transposed_convs(model, network.transposed_convs)
    replace_stand_ins(model, network.stand_ins)
    return model


def _store_row_by_row(graph: fx.GraphModule) -> None:
    """The converter reads a constant's memory and ignores its strides (`channels_last` weights, transposed views)."""
    for name, parameter in list(graph.named_parameters()):
        if not parameter.is_contiguous():
            bind(graph, name, parameter.detach().contiguous(), trainable=True)
    for name, buffer in list(graph.named_buffers()):
        if not buffer.is_contiguous():
            bind(graph, name, buffer.contiguous(), trainable=False)


def _convert(network: ChannelsLast, spec: InputSpec) -> bytes:
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    channels, height, width = spec.shape
    # The quantizer is never run: that there is one tells the converter that Q/DQ operators are meant, and not float.
    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    has_pairs = any("quantized_decomposed" in str(node.target) for node in call_nodes(network.network))
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")  # its progress goes to a console of its own
    model = litert_torch.convert(
        network,
        (torch.zeros(1, height, width, channels),),
        # Without `strict`, residual additions are left in float, without a word.
        strict_export=True,
        quant_config=QuantConfig(pt2e_quantizer=quantizer) if has_pairs else None,
    )
    return bytes(model.model_content())
