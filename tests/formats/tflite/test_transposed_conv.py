"""Transposed convolutions in integers: TRANSPOSE_CONV in the place of what travels through the converter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.formats.tflite.flatbuffer import pack, schema
from compress.formats.tflite.network import parse_network
from compress.formats.tflite.specialize import batch_of_one
from compress.formats.tflite.transposed_conv import TransposedConv, carry_transposed_convs
from compress.formats.tflite.write_transposed_conv import write_transposed_convs
from compress.graph.capture import capture

CODES = np.random.default_rng(0).integers(-128, 128, (1, 5, 6, 4)).astype(np.int8)
SCALE, ZERO = 0.02, 3


def layer_of(module, shape=(4, 5, 6)):
    """What the file gets to know of a float layer."""
    graph = capture(nn.Sequential(module).eval(), InputSpec(shape, "planes", (0.5,) * shape[0], (0.5,) * shape[0]))
    batch_of_one(graph)
    (layer,) = carry_transposed_convs(graph).values()
    return layer


def quantized(layer):
    """The layer with a weight of 8 bits per output channel and a bias of 32."""
    scale = (np.abs(layer.weight).reshape(len(layer.weight), -1).max(1) / 127).astype(np.float32)
    weight = np.rint(layer.weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
    steps = (scale * np.float32(SCALE)).astype(np.float32)
    bias = None if layer.bias is None else np.rint(layer.bias / steps).astype(np.int32)
    return TransposedConv(weight, scale, bias, None if bias is None else steps, layer.stride, layer.same, layer.offset)


def carried(build, shape, *, integers=True):
    """DEQUANTIZE -> our composite -> QUANTIZE, as the converter leaves it, with a graph for the composite."""
    given, taken = (
        build.tensor(CODES.shape, scale=SCALE, zero_point=ZERO),
        build.tensor(shape, scale=0.05, zero_point=-7),
    )
    inside, outside = build.tensor(CODES.shape, kind="FLOAT32"), build.tensor(shape, kind="FLOAT32")
    build.operator("DEQUANTIZE", 2, [given], [inside])
    composite = build.operator("STABLEHLO_COMPOSITE", 1, [inside], [outside])
    composite.builtinOptions2Type = schema().BuiltinOptions2.StableHLOCompositeOptions
    composite.builtinOptions2 = schema().StableHLOCompositeOptionsT()
    composite.builtinOptions2.name, composite.builtinOptions2.decompositionSubgraphIndex = b"layer", 1
    if integers:
        build.operator("QUANTIZE", 1, [outside], [taken])
    build.model.subgraphs.append(schema().SubGraphT())
    return build.interface(given, taken if integers else outside)


CASES = {
    "k2s2": nn.ConvTranspose2d(4, 3, 2, 2),
    "k4s2p1": nn.ConvTranspose2d(4, 3, 4, 2, 1),
    "without_bias": nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False),
    "padding_differs": nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1),
    "beyond_the_end": nn.ConvTranspose2d(4, 3, 3, 3, 0, output_padding=2),
    "larger_kernel": nn.ConvTranspose2d(4, 3, 5, 2, 1),
    "stride_1": nn.ConvTranspose2d(4, 3, 3, 1, 1),
    "gaps": nn.ConvTranspose2d(4, 3, 1, 3),
    "dilated": nn.ConvTranspose2d(4, 3, 3, 2, 1, dilation=2),
    "groups": nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2),
    "depthwise": nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4),
    "rectangular": nn.ConvTranspose2d(4, 3, (4, 3), (2, 1), (1, 0), (1, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_computes_what_torch_does(build, run_bytes, name):
    torch.manual_seed(0)
    module = CASES[name]
    floats = (CODES.astype(np.float32) - ZERO) * np.float32(SCALE)
    layer = quantized(layer_of(module))
    with torch.no_grad():
        module.weight[:] = _as_torch(layer, module)
        if layer.bias is not None:
            module.bias[:] = torch.from_numpy(layer.bias * layer.bias_scale)
        wanted = module(torch.from_numpy(floats).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    model = carried(build, wanted.shape)
    write_transposed_convs(model, {"layer": layer})
    content = pack(model)
    network = parse_network(content)
    kinds = [(operator.kind, operator.version) for operator in network.operators]
    assert kinds[0] == ("TRANSPOSE_CONV", 2 if layer.bias is None else 3)
    assert kinds[1:] in ([], [("SLICE", 2)])
    assert network.subgraphs == 1
    codes = np.clip(np.rint(wanted / np.float32(0.05)) - 7, -128, 127)
    assert np.abs(run_bytes(content, CODES).astype(int) - codes).max() <= 1


def _as_torch(layer, module):
    """The rounded weight in the module's own layout, without what was put beside, between and behind it."""
    dense = (layer.weight * layer.scale.reshape(-1, 1, 1, 1)).transpose(3, 0, 1, 2)  # [I, O, H, W]
    rows, columns = ((side - 1) * step + 1 for side, step in zip(module.kernel_size, module.dilation, strict=True))
    dense = dense[:, :, : rows : module.dilation[0], : columns : module.dilation[1]]
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    parts = [dense[g * inputs : (g + 1) * inputs, g * outputs : (g + 1) * outputs] for g in range(module.groups)]
    return torch.from_numpy(np.concatenate(parts))


def test_one_whose_result_stays_a_float_is_a_float(build, run_bytes):
    torch.manual_seed(0)
    module = CASES["padding_differs"]
    with torch.no_grad():
        floats = torch.from_numpy((CODES.astype(np.float32) - ZERO) * np.float32(SCALE)).permute(0, 3, 1, 2)
        wanted = module(floats).permute(0, 2, 3, 1).numpy()
    model = carried(build, wanted.shape, integers=False)
    write_transposed_convs(model, {"layer": layer_of(module)})
    content = pack(model)
    assert [operator.kind for operator in parse_network(content).operators] == ["DEQUANTIZE", "TRANSPOSE_CONV", "SLICE"]
    np.testing.assert_allclose(run_bytes(content, CODES), wanted, atol=1e-5)


def test_one_dimension_is_a_map_of_one_row():
    layer = layer_of(nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(4, 3, 4, 2, 1)), (4, 1, 9))
    assert layer.weight.shape == (3, 1, 4, 4)
    assert (layer.stride, layer.same) == ((1, 2), True)
