"""The numbers: closeness to float, exact zeros, and inputs that break careless quantizers."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.graph.weights import compute_weights
from compress.quantization.observers.min_max import MinMax
from compress.quantization.observers.mse import Mse
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, float_graph, prepare, quantizers
from compress.quantization.tensor_quantizer import TensorQuantizer


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


@pytest.fixture
def data(kit):
    torch.manual_seed(1)
    return torch.randn(32, *kit.spec.shape)


@pytest.mark.parametrize("policy", ["onnxruntime", "tensorrt", "torch", "litert", "edgetpu"])
@pytest.mark.parametrize("observer", ["min_max", "histogram"])
def test_close_to_float_under_every_policy(kit, data, policy, observer):
    module = kit.lively(network())
    before = copy.deepcopy(module.state_dict())
    graph = kit.quantize(module, data, kit.spec, kit.recipe(policy, observer))
    assert kit.sqnr(module(data), graph(data)) > 28
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_options_cost_accuracy_in_the_expected_order(kit, data):
    module = kit.lively(network())
    with torch.no_grad():
        module[3].weight[0] *= 30  # one loud channel: one scale for all starves the others
        module[3].bias[0] *= 30
    quality = {
        name: kit.sqnr(module(data), kit.quantize(module, data, kit.spec, kit.recipe(**options))(data))
        for name, options in {"best": {}, "7 bit": {"reduce_range": True}, "tensor": {"per_channel": False}}.items()
    }
    assert quality["best"] > quality["7 bit"]
    assert quality["best"] > quality["tensor"]


def test_reduced_weights_stay_in_7_bits(kit, data):
    graph = kit.quantize(network(), data, kit.spec, kit.recipe(reduce_range=True))
    for weight in compute_weights(graph):
        assert weight.tensor.dtype == torch.int8
        assert weight.tensor.abs().max() == 64


def test_zeros_of_pruned_weights_stay_exactly_zero(kit, data):
    module = kit.lively(network())
    with torch.no_grad():
        for layer in (module[0], module[3], module[7]):
            layer.weight[layer.weight.abs() < layer.weight.abs().median()] = 0
    expected = {weight.layer: weight.tensor == 0 for weight in compute_weights(module)}
    for weight in compute_weights(kit.quantize(module, data, kit.spec, kit.recipe())):
        assert ((weight.tensor == 0) | ~expected[weight.layer]).all()
        assert weight.zero_point.eq(0).all()


@pytest.mark.parametrize("observer", ["min_max", "histogram"])
def test_dead_channels_constant_activations_and_tiny_weights_beside_large_biases(kit, data, observer):
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        module[0].weight[0], module[0].bias[0] = 0, 0.37  # dead: its output is constant
        module[0].weight[1] *= 1e-9
        module[0].bias[1] = 100
        module[0].weight[2], module[0].bias[2] = 0, 0
    graph = kit.quantize(module, data, kit.spec, kit.recipe(observer=observer))
    first = graph.get_submodule("0")
    assert first.weight_scale.isfinite().all()
    assert (first.weight_scale > 0).all()
    assert (first.bias.abs() <= 2**30).all()
    restored = first.bias * first.bias_scale
    torch.testing.assert_close(restored[:3], module[0].bias[:3].detach(), atol=2e-4, rtol=1e-4)
    assert graph(data).isfinite().all()


def test_a_network_that_outputs_a_constant(kit, data):
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.zero_()
    graph = kit.quantize(module, data, kit.spec, kit.recipe())
    torch.testing.assert_close(graph(data), module(data), atol=0.01, rtol=0.01)


def test_nan_in_a_weight_names_it(kit, data):
    module = network()
    with torch.no_grad():
        module[3].weight[1, 0, 0, 0] = float("nan")
    with pytest.raises(StageError, match=r"weight '3.weight' holds NaN or infinity"):
        kit.quantize(module, data, kit.spec, kit.recipe())


def test_infinity_in_an_activation_names_the_layer_and_the_batch(kit, data):
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish(), nn.Conv2d(4, 2, 1)).eval()
    data[17:] *= 1e36
    with torch.no_grad():
        module[0].weight.mul_(1000)
    with pytest.raises(StageError, match=r"calibration batch 2: the activation of '0' holds NaN or infinity"):
        kit.quantize(module, data, kit.spec, kit.recipe())


def test_nothing_to_calibrate_on_is_an_error(kit):
    prepared = prepare(float_graph(network(), kit.spec), kit.recipe())
    with pytest.raises(StageError, match=r"calibration split is empty"):
        calibrate(prepared, [])


def test_weights_are_observed_once_and_activations_every_time(kit, data):
    seen = []

    class Spy(MinMax):
        def observe(self, values, low, high):
            seen.append(values.shape)
            super().observe(values, low, high)

    recipe = kit.recipe(weight_observer=Spy)
    calibrate(prepare(float_graph(network(), kit.spec), recipe), data.split(4))
    assert seen == [(8, 27), (8, 9), (5, 8)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8))
def test_min_max_round_trip_is_within_half_a_step(numbers):
    from compress.quantization.grid import activation_grid
    from compress.quantization.policy import load_policy

    quantizer = TensorQuantizer(grid=activation_grid(load_policy("onnxruntime").activation), observer=MinMax)
    values = torch.tensor(numbers).view(2, 4)
    assert quantizer(values) is values
    scale, zero_point = quantizer.calculate_qparams()
    assert (quantizer.grid.round_trip(values, scale, zero_point) - values).abs().max() <= scale * 0.501


def test_the_result_can_be_saved_loaded_and_captured_again(kit, data, tmp_path):
    graph = kit.quantize(network(), data, kit.spec, kit.recipe())
    program = torch.export.export(graph, (data[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.equal(again(data), graph(data))
    assert torch.equal(copy.deepcopy(graph)(data), graph(data))


def test_what_is_averaged_on_its_own_grid_gets_a_finer_one():
    """LiteRT's average has its input's scale, ONNX Runtime's has one of its own; clipping costs the latter more."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(8, 4, 1)).eval()
    images = torch.randn(64, 3, 10, 10).pow(5)
    scales = {}
    for runtime in ("litert", "onnxruntime"):
        prepared = prepare(float_graph(layers, InputSpec((3, 10, 10))), Recipe(load_policy(runtime), Mse))
        calibrate(prepared, [images])
        scales[runtime] = {name: float(q.calculate_qparams()[0].max()) for name, q in quantizers(prepared).items()}
    assert scales["litert"]["1"] < scales["onnxruntime"]["1"]
    assert scales["litert"]["input"] == scales["onnxruntime"]["input"]


class Levels(nn.Module):
    """A head in small: one convolution for two levels, a normalisation of its own for each."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))

    def forward(self, x):
        levels = zip(self.norms, (x, nn.functional.max_pool2d(x, 2)), strict=True)
        return torch.cat([norm(self.shared(level)).relu().mean((2, 3)) for norm, level in levels], 1)


class PreActivation(nn.Module):
    """The convolution's output is both normalised and added, as in pre-activation blocks."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        return (x + self.conv(self.norm(x).relu())).mean((2, 3))


class SharedNorm(nn.Module):
    """One normalisation for two convolutions."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 3, bias=False) for _ in range(2))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return sum(self.norm(conv(x)).relu() for conv in self.convs).mean((2, 3))


class NormAfterLinear(nn.Module):
    """A matrix product over positions whose channels are not its last axis."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.linear(x.mean(2))).flatten(1)


@pytest.mark.parametrize("policy", ["onnxruntime", "tensorrt", "torch", "litert"])
@pytest.mark.parametrize("make", [Levels, PreActivation, SharedNorm, NormAfterLinear])
def test_observers_change_nothing(kit, data, make, policy):
    module = kit.lively(make())
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.uniform_(0.1, 0.3)
    graph = float_graph(module, kit.spec, load_policy(policy))
    torch.testing.assert_close(graph(data), module(data), atol=1e-5, rtol=1e-5)
    expected = graph(data)
    prepared = prepare(graph, kit.recipe(policy))
    assert torch.equal(prepared(data), expected)


@pytest.mark.parametrize("make", [Levels, PreActivation, SharedNorm])
def test_what_cannot_be_folded_survives_quantization(kit, data, make):
    module = kit.lively(make())
    assert kit.sqnr(module(data), kit.quantize(module, data, kit.spec, kit.recipe())(data)) > 25
