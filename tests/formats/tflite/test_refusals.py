"""What a user reads where a network has no file: one line with layer, module, operator and a fix; no MLIR, no path."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.formats.tflite.advice import load_advice
from compress.formats.tflite.loadable import require_loadable
from compress.formats.tflite.refusals import described, unmapped, untranslatable, without_integers
from compress.graph.capture import capture

SPEC = InputSpec((3, 8, 8))


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def graph_of(layer):
    return capture(nn.Sequential(nn.Conv2d(3, 3, 1), layer).eval(), SPEC, dynamic_batch=False)


UNSUPPORTED = {
    "fft": (Call(lambda x: torch.fft.fft2(x).abs()), "fft_fft2", "compute the transform on the host"),
    "complex": (Call(lambda x: torch.complex(x, x).abs()), "complex", "channels of their own"),
    "volumes": (
        nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3), nn.Flatten()),
        "conv3d",
        "nn.Conv2d over each frame",
    ),
    "grid_sample": (
        Call(lambda x: nn.functional.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=False)),
        "grid_sampler",
        "F.interpolate where the grid is a resize",
    ),
    "cumsum": (Call(lambda x: x.cumsum(2)), "cumsum", "on the host, after the output"),
    "topk": (Call(lambda x: x.topk(2, 2)[0]), "topk", "on the host, after the output"),
    "fold": (
        Call(lambda x: nn.functional.fold(nn.functional.unfold(x, 2, stride=2), (8, 8), 2, stride=2)),
        "im2col",
        "nn.PixelUnshuffle",
    ),
    "instance_norm": (nn.InstanceNorm2d(3), "instance_norm", "nn.BatchNorm2d in its place"),
    "softplus": (nn.Softplus(), "softplus", "nn.Mish or nn.ReLU"),
    "power": (Call(lambda x: x.abs() ** 1.5), "pow", "a whole exponent from 1 to 8"),
    "determinant": (Call(lambda x: x * torch.linalg.det(x)[..., None, None]), "linalg_det", "on the host"),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), "upsample_bicubic2d", "mode='bilinear'"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_the_layer_its_module_its_operator_and_a_fix_for_it(name):
    layer, operator, fix = UNSUPPORTED[name]
    error = without_integers(graph_of(layer), "A board")
    assert error is not None
    text = str(error)
    assert f"'{operator}' in layer '1" in text
    module = type(layer[1] if isinstance(layer, nn.Sequential) else layer).__name__
    assert f"({module})" in text
    assert fix in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "layer",
    [nn.ReLU(), nn.PReLU(), nn.ELU(), nn.SiLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2)],
    ids=str,
)
def test_what_converts_is_not_accused(layer):
    assert without_integers(graph_of(layer), "A board") is None


MLIR = """error: "jit(f)"("jit(f)"(callsite("/srv/.cache/litert/a1b2/model.py":10:3))): 'tfl.pow' op operand #0 must be
see current operation: %12 = "tfl.pow"(%11, %3) : (tensor<1x8xf32>, tensor<f32>) -> tensor<1x8xf32>"""


@pytest.mark.parametrize(
    "message",
    [
        MLIR,
        "Lowering not found: aten.pow.Tensor_Scalar",
        "failed to legalize operation 'stablehlo.pow' that was explicitly marked illegal",
        "While executing %pow_1 : [num_users=1] = call_function[target=torch.ops.aten.pow.Tensor_Scalar]",
        "/tmp/tmpabc/cache: something went wrong",  # names nothing: what is not known to convert is named
    ],
)
def test_nothing_of_the_converters_own_words_is_passed_on(message):
    graph = graph_of(Call(lambda x: x.abs() ** 1.5))
    for error in (RuntimeError(message), _chained(message)):
        text = str(untranslatable(error, graph))
        assert text.startswith("LiteRT has no form for 'pow' in layer '1' (Call) | fix: layer '1' (Call): a whole")
        assert not any(word in text for word in ("tfl.", "stablehlo", "tensor<", "%", "/tmp", "/root", "jit(", "\n"))


def _chained(message):
    error = ValueError("conversion failed")
    error.__cause__ = RuntimeError(message)
    return error


def test_where_no_layer_is_to_blame_the_operators_are_listed():
    text = str(untranslatable(RuntimeError("/tmp/x.mlir:3: boom"), graph_of(nn.ReLU())))
    assert text.startswith("LiteRT's converter failed without naming an operator; the model has conv2d, relu | fix: ")
    assert "/tmp" not in text
    text = str(untranslatable(RuntimeError("'tfl.rfft2d' op failed"), graph_of(nn.ReLU())))
    assert "'rfft2d'" in text
    assert "compute the transform on the host" in text


def test_an_operator_that_the_runtime_lacks_is_the_layer_that_it_stands_for():
    text = str(unmapped(graph_of(nn.GELU()), "GELU", "A board"))
    assert text.startswith(
        "A board's runtime has no GELU, which stands for 'gelu' in layer '1' (GELU) | fix: layer '1'"
    )
    assert "nn.GELU(approximate='tanh')" in text
    assert "has no FANCY" in str(unmapped(graph_of(nn.ReLU()), "FANCY", "A board"))


def test_layers_are_named_once_and_not_all_of_them():
    graph = graph_of(nn.Sequential(*(nn.Softplus() for _ in range(5))))
    nodes = [node for node in graph.graph.nodes if "softplus" in str(node.target)]
    assert described([*nodes, *nodes]).endswith("'softplus' in layer '1.2' (Softplus) and 2 more")


def test_a_file_that_the_interpreter_refuses_is_a_layer_too(build):
    """LOG_SOFTMAX of int8 has one output scale, and this is another."""
    from compress.formats.tflite.flatbuffer import pack

    given, taken = build.tensor([1, 10]), build.tensor([1, 10], scale=0.5, zero_point=3)
    build.operator("LOG_SOFTMAX", 2, [given], [taken], "LogSoftmaxOptions")
    graph = capture(nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.LogSoftmax(1)).eval(), SPEC, dynamic_batch=False)
    with pytest.raises(StageError, match=r"no kernel for 'log_softmax' in layer '2' \(LogSoftmax\) \| fix: ") as error:
        require_loadable(pack(build.interface(given, taken)), graph)
    assert "activations.cc" not in str(error.value)


def test_known_operators_are_no_subject_of_advice_but_for_devices_without_them():
    advice = load_advice()
    both = {name for name in advice.instead if advice.converts(name)}
    assert both == {"leaky_relu", "gelu", "exp", "log"}
    assert set(advice.families) >= {""}
