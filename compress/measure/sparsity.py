"""Exact zeros among the weights of convolutions and linear layers, counted in the stored values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from compress.measure.unmeasured import NotMeasured
from compress.types import Sparsity

if TYPE_CHECKING:
    import onnx
    from torch import nn

__all__ = ["module_sparsity", "onnx_sparsity", "torchscript_sparsity"]


def module_sparsity(module: nn.Module) -> Sparsity:
    """Zeros of a live module; integer weights behind dequantize nodes are zero where they equal their zero point."""
    from compress.weights import compute_weights

    return _total((weight.layer, weight.zeros(), weight.tensor.numel()) for weight in compute_weights(module))


def onnx_sparsity(model: onnx.ModelProto) -> Sparsity:
    """Zeros of the constants that feed Conv, ConvTranspose, Gemm and MatMul, directly or through DequantizeLinear."""
    from compress.measure.onnx_graph import onnx_weights

    return _total((w.name, int((w.values == w.zero_point).sum()), w.values.size) for w in onnx_weights(model))


def torchscript_sparsity(path: Path) -> Sparsity:
    """Zeros of a TorchScript file's weights."""
    from compress.measure.torchscript_graph import script_weights
    from compress.models.script_file import load_script

    return _total((name, int((w == 0).sum()), w.numel()) for name, w in script_weights(load_script(path)))


def _total(layers: Iterable[tuple[str, int, int]]) -> Sparsity:
    zeros = total = 0
    per_layer: dict[str, float] = {}
    for name, layer_zeros, layer_total in layers:
        zeros, total = zeros + layer_zeros, total + layer_total
        per_layer[name] = layer_zeros / layer_total if layer_total else 0.0
    if not total:
        raise NotMeasured("found no convolution or linear layer with stored weights")
    return Sparsity(zeros, total, per_layer)
