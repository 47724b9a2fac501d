"""Sparsity, parameters and MACs agree between a module, its quantized graph, its ONNX file and its TorchScript file."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.core.errors import StageError
from compress.core.measurement import Caveat, CaveatKind
from compress.formats.onnx.macs import onnx_macs
from compress.formats.onnx.weights import onnx_parameters, onnx_sparsity, weights_in_7_bits
from compress.formats.torch.macs import torch_macs
from compress.formats.torch.weights import module_parameters, module_sparsity
from compress.formats.torchscript.script_file import load_script
from compress.formats.torchscript.weights import script_parameters, script_sparsity
from compress.measure.unmeasured import NotMeasured, attempt, unless_absent


class TorchRunner:
    name = "torch"

    def __init__(self, module):
        self.module = module

    def __call__(self, images):
        with torch.inference_mode():
            return self.module(torch.from_numpy(images)).numpy()


def network():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, bias=False),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2),
        nn.Flatten(),
        nn.Linear(196, 5),
    ).eval()
    with torch.no_grad():
        module[0].weight[:4] = 0
        module[4].weight[:, :49] = 0
    return module


SHAPE = (1, 4, 8, 8)
ZEROS, TOTAL = 72 + 245, 144 + 128 + 980
# conv: 8 outputs of 6x6, each over 2x3x3; transposed: 8 inputs of 6x6, each to 4x2x2; linear: 196x5
MACS = 8 * 36 * 18 + 8 * 36 * 16 + 980


def export(module, dynamic=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.zeros(2 if dynamic else 1, *SHAPE[1:]),),
            dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic else None,
            verbose=False,
        )
    return program.model_proto


def test_module_numbers():
    module = network()
    sparsity = module_sparsity(module)
    assert (sparsity.zeros, sparsity.total) == (ZEROS, TOTAL)
    assert sparsity.per_layer == {"0": 0.5, "2": 0.0, "4": 0.25}
    assert module_parameters(module) == TOTAL + 4 + 5
    assert torch_macs(TorchRunner(module), np.zeros(SHAPE, np.float32)) == MACS


@pytest.mark.parametrize("dynamic", [True, False])
def test_onnx_numbers_equal_the_modules(dynamic):
    model = export(network(), dynamic)
    sparsity = onnx_sparsity(model)
    assert (sparsity.zeros, sparsity.total) == (ZEROS, TOTAL)
    assert sparsity.per_layer == {"0": 0.5, "2": 0.0, "4": 0.25}
    assert onnx_macs(model) == MACS
    assert onnx_parameters(model) == TOTAL + 4 + 5


@pytest.mark.parametrize("frozen", [True, False])
def test_torchscript_numbers_equal_the_modules(tmp_path, frozen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(network(), torch.zeros(SHAPE))
        script = torch.jit.freeze(script) if frozen else script
        script.save(str(tmp_path / "m.pt"))
    sparsity = script_sparsity(load_script(tmp_path / "m.pt"))
    assert (sparsity.zeros, sparsity.total) == (ZEROS, TOTAL)
    loaded = load_script(tmp_path / "m.pt")
    assert script_parameters(loaded) == TOTAL + 4 + 5
    assert torch_macs(TorchRunner(loaded), np.zeros(SHAPE, np.float32)) == MACS


def test_a_quantized_graph_counts_its_integer_weights_and_not_the_floats_they_replaced():
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import arm_inductor_quantizer as arm

    from compress.formats.size import stored_tensors

    module = network()
    captured = torch.export.export(module, (torch.zeros(SHAPE),)).module()
    configuration = arm.get_default_arm_inductor_quantization_config()
    prepared = prepare_pt2e(captured, arm.ArmInductorQuantizer().set_global(configuration))
    prepared(torch.randn(SHAPE))
    converted = convert_pt2e(prepared)
    sparsity = module_sparsity(converted)
    assert sparsity.total == TOTAL
    assert sparsity.zeros >= ZEROS  # rounding may add zeros, never remove one
    assert set(sparsity.per_layer) == {"0", "2", "4"}
    assert module_parameters(converted) == TOTAL + 4 + 5
    assert torch_macs(TorchRunner(converted), np.zeros(SHAPE, np.float32)) == MACS
    assert "0.weight" not in stored_tensors(converted)


def quantized_onnx(values, zero_point, per_channel):
    weight = numpy_helper.from_array(np.array(values, np.int8), "w_quantized")
    channels = [len(values)] if per_channel else []
    scale = numpy_helper.from_array(np.full(channels, 0.5, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(zero_point, np.int8), "zero")
    nodes = [
        helper.make_node("DequantizeLinear", ["w_quantized", "scale", "zero"], ["w"], axis=0),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", len(values[0])])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", len(values)])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight, scale, zero])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def test_onnx_zeros_behind_dequantize_are_at_the_zero_point():
    model = quantized_onnx([[1, 1, 0], [2, 0, 0]], [1, 0], per_channel=True)
    sparsity = onnx_sparsity(model)
    assert (sparsity.zeros, sparsity.total) == (4, 6)
    assert onnx_parameters(model) == 6
    assert onnx_macs(model) == 6
    assert onnx_sparsity(quantized_onnx([[3, 3], [0, 3]], 3, per_channel=False)).zeros == 3


def test_seven_bit_weights_are_recognised():
    assert weights_in_7_bits(quantized_onnx([[64, -64]], 0, per_channel=False))
    assert not weights_in_7_bits(quantized_onnx([[65, 0]], 0, per_channel=False))
    assert not weights_in_7_bits(quantized_onnx([[-128, 0]], 0, per_channel=False))


def test_a_matrix_product_of_two_activations_has_macs_but_no_weights():
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 3])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 3])
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [logits]))
    assert onnx_macs(model) == 27
    caveats = {}
    assert attempt("sparsity", caveats, lambda: onnx_sparsity(model)) is None
    why = "found no convolution or linear layer with stored weights"
    assert caveats == {"sparsity": Caveat(CaveatKind.MISSING, why)}


def test_operators_outside_the_standard_are_not_guessed_at():
    model = quantized_onnx([[1, 0]], 0, per_channel=False)
    model.graph.node.append(helper.make_node("FusedConv", ["x", "w"], ["z"], domain="com.microsoft"))
    for count in (onnx_macs, onnx_sparsity):
        with pytest.raises(NotMeasured, match=r"com\.microsoft::FusedConv"):
            count(model)


@pytest.mark.parametrize(("name", "giga"), [("resnet18", 1.814), ("mobilenet_v2", 0.301)])
def test_published_macs_in_both_formats(name, giga):
    import torchvision

    module = getattr(torchvision.models, name)(weights=None).eval()
    image = np.zeros((1, 3, 224, 224), np.float32)
    counted = torch_macs(TorchRunner(module), image)
    assert round(counted / 1e9, 3) == giga
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(  # the older exporter: 5x quicker, and another way of writing the same graph
            module, (torch.zeros(1, 3, 224, 224),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
        )
    model = onnx.load_from_string(file.getvalue())
    assert onnx_macs(model) == counted
    assert onnx_sparsity(model).total == module_sparsity(module).total


class Pooled(nn.Module):
    """A learned query is what the attention is called with (MAP heads, CLIP, DETR)."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 8))
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.attend(self.query.expand(len(x), -1, -1), tokens, tokens)[0]


def test_macs_of_a_module_that_is_called_with_a_parameter():
    torch.manual_seed(0)
    image = np.zeros((1, 8, 3, 3), np.float32)
    projections = 8 * 8 + 2 * 9 * 8 * 8 + 8 * 8  # the query's, those of nine keys and values, the output's
    assert torch_macs(TorchRunner(Pooled().eval()), image) == projections + 2 * 9 * 8


def test_macs_of_a_parametrized_weight():
    module = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
    assert torch_macs(TorchRunner(module), np.zeros((1, 6), np.float32)) == 30


def test_whatever_goes_wrong_beside_a_result_is_a_reason():
    caveats = {}

    def stumbles():
        raise AttributeError("'NoneType' object has no attribute 'next_functions'\nand more")

    assert attempt("macs", caveats, stumbles) is None
    assert caveats["macs"].why == "not measured: AttributeError: 'NoneType' object has no attribute 'next_functions'"
    with pytest.raises(AttributeError):
        unless_absent("accuracy", caveats, stumbles)

    def refuses():
        raise StageError("the device is gone", fix="plug it in")

    with pytest.raises(StageError):
        attempt("macs", caveats, refuses)
