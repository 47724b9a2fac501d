"""A quantization recipe by name, the whole path in one call, and how close its result is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.quantization.observers import load_observer
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare


def make_recipe(policy="onnxruntime", observer="min_max", **options):
    return Recipe(load_policy(policy), load_observer(observer), **options)


def quantize_module(module, data, spec, recipe):
    prepared = prepare(float_graph(module, spec), recipe)
    calibrate(prepared, data.split(16))
    return convert(prepared)


def make_lively(module):
    """Normalisations that do something, and activations that stay of the order of one through the layers."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.2)
    return module.eval()


def sqnr_db(reference, other):
    reference, other = reference.detach(), other.detach()
    return float(10 * torch.log10(reference.square().sum() / (reference - other).square().sum()))


def export_onnx(graph, spec, path):
    """An ONNX file of a converted graph, batch open."""
    onnx_assemble = pytest.importorskip("compress.formats.onnx.assemble")
    import onnx_ir as ir

    from compress.formats.onnx.opset import Ceiling

    model = onnx_assemble.finish(onnx_assemble.from_module(graph, spec, dynamic_batch=True), 17, Ceiling(None, ""))
    ir.save(model, path)
    return path
