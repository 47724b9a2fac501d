"""Adaptive rounding on layers whose best rounding can be checked, and on a real network."""

from __future__ import annotations

import copy
import itertools
import time

import pytest
import torch
from doubles import Log
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.quantization.observers import load_observer
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare, quantizers
from compress.quantization.recovery.adaround import AdaRoundOptions, round_adaptively
from compress.quantization.recovery.layer_inputs import find_layers, gather_moments
from compress.quantization.recovery.rounding_search import rounding_error, search_rounding
from compress.quantization.simulation import switched
from compress.quantization.tensor_quantizer import Mode

SPEC = InputSpec((4, 8, 8), "planes", mean=(0,) * 4, std=(1,) * 4)


class Net(nn.Module):
    """Every shape of layer that is reconstructed: strided, padded, grouped, depthwise, pointwise, dilated, linear."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, (3, 5), padding="same", groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=(0, 1), groups=2, bias=False)
        self.dilated = nn.Conv2d(12, 6, (1, 2), dilation=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.depthwise(self.first(x).relu()).relu()
        return self.head(self.dilated(self.grouped(x).relu()).relu().mean((2, 3)))


def images(count=48):
    """Neighbouring channels and pixels that resemble each other, as real activations do."""
    torch.manual_seed(7)
    noise = torch.randn(count, 4, 8, 8)
    return noise.cumsum(dim=1).cumsum(dim=2) / 4


def prepared_net(module, spec=SPEC, data=None, *, per_channel=True):
    data = images() if data is None else data
    recipe = Recipe(load_policy("onnxruntime"), load_observer("min_max"), per_channel=per_channel)
    prepared = prepare(float_graph(module.eval(), spec), recipe)
    calibrate(prepared, data.split(16))
    return prepared, lambda: data.split(16)


def make_net():
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("per_channel", [True, False])
def test_output_error_of_every_layer_falls(per_channel):
    prepared, batches = prepared_net(make_net(), per_channel=per_channel)
    gains = round_adaptively(prepared, batches, AdaRoundOptions(), Log())
    assert [gain.name for gain in gains] == [
        f"{name}.weight" for name in ("first", "depthwise", "grouped", "dilated", "head")
    ]
    for gain in gains:
        assert 0 < gain.rounded_mse < gain.nearest_mse, gain
        assert gain.changed > 0


def test_reported_error_is_that_of_the_convolution():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2))
    prepared, batches = prepared_net(module)
    recorded = quantizers(prepared)["input"]
    (gain,) = round_adaptively(prepared, batches, AdaRoundOptions(), Log())
    with torch.no_grad():
        inputs = recorded.simulate(images())
        rounded = prepared.get_parameter("0.weight")
        original = module[0].weight
        change = nn.functional.conv2d(inputs, rounded - original, None, 2, 1, groups=2)
    assert gain.rounded_mse == pytest.approx(float(change.square().mean()), rel=1e-3)


def test_converted_integers_are_the_chosen_ones_and_scales_stay():
    prepared, batches = prepared_net(make_net())
    scales = {name: q.calculate_qparams()[0].clone() for name, q in quantizers(prepared).items()}
    round_adaptively(prepared, batches, AdaRoundOptions(), Log())
    for name, quantizer in quantizers(prepared).items():
        assert torch.equal(quantizer.calculate_qparams()[0], scales[name]), name
    chosen = {name: prepared.get_parameter(name).detach().clone() for name in scales if name.endswith("weight")}
    with switched(prepared, Mode.SIMULATE), torch.no_grad():
        simulated = prepared(images())
    converted = convert(prepared)
    for name, values in chosen.items():
        scale = scales[name].view(-1, *[1] * (values.ndim - 1))
        integers = converted.get_buffer(name)
        assert integers.dtype == torch.int8
        torch.testing.assert_close(values, integers * scale, rtol=1e-6, atol=0)
    with torch.no_grad():
        assert float((converted(images()) - simulated).abs().max()) < 0.1 * float(simulated.abs().max())


def test_pruned_weights_stay_zero_and_no_weight_moves_a_whole_step():
    net = make_net()
    with torch.no_grad():
        for layer in net.children():
            layer.weight[torch.rand_like(layer.weight) < 0.6] = 0
    before = {name: value.detach().clone() for name, value in net.named_parameters() if name.endswith("weight")}
    prepared, batches = prepared_net(net)
    round_adaptively(prepared, batches, AdaRoundOptions(), Log())
    for name, old in before.items():
        new = prepared.get_parameter(name).detach()
        scale = quantizers(prepared)[name].calculate_qparams()[0].view(-1, *[1] * (old.ndim - 1))
        assert not new[old == 0].any()
        assert float(((new - old) / scale).abs().max()) < 1.001


def test_memory_bound_takes_more_passes_with_the_same_result_and_names_what_is_too_large():
    results = []
    for memory in (1 << 20, 4 * 2 * 36**2):  # all at once; then just enough for the largest layer
        prepared, batches = prepared_net(make_net())
        log = Log()
        round_adaptively(prepared, batches, AdaRoundOptions(memory_bytes=memory), log)
        assert not log.lines
        results.append(prepared.get_parameter("first.weight").detach())
    assert torch.equal(*results)

    prepared, batches = prepared_net(make_net())
    before = prepared.get_parameter("grouped.weight").detach().clone()
    log = Log()
    gains = round_adaptively(prepared, batches, AdaRoundOptions(memory_bytes=5000), log)
    assert "first.weight keeps nearest rounding: needs 5 KiB, memory_bytes allows 5" in log.lines[0]
    assert {gain.name for gain in gains} == {"dilated.weight", "head.weight"}
    assert torch.equal(prepared.get_parameter("grouped.weight"), before)


def test_shared_and_transposed_weights_are_left_and_named():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice = nn.Conv2d(4, 4, 1)
            self.up = nn.ConvTranspose2d(4, 4, 2)

        def forward(self, x):
            return self.up(self.twice(self.twice(x).relu())).flatten(1)

    prepared, batches = prepared_net(Shared())
    log = Log()
    assert round_adaptively(prepared, batches, AdaRoundOptions(), log) == ()
    assert any("its weight is used more than once" in line for line in log.lines)


def test_modes_come_back_and_no_images_is_an_error():
    prepared, _ = prepared_net(make_net())
    with pytest.raises(StageError, match="saw no images"):
        round_adaptively(prepared, lambda: iter(()), AdaRoundOptions(), Log())
    assert {quantizer.mode for quantizer in quantizers(prepared).values()} == {Mode.OBSERVE}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 9))
def test_search_is_never_worse_than_nearest_and_near_the_optimum(seed, inputs, samples):
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(1, inputs, samples, generator=generator).cumsum(1)
    exact = 3 * torch.randn(1, 2, inputs, generator=generator)
    hessian = data @ data.mT / samples
    nearest = exact.round().clamp(-4, 4)
    chosen = search_rounding(hessian, exact, (-4, 4), damping=0.0, sweeps=10)
    error, error_nearest = (rounding_error(hessian, q - exact)[0] for q in (chosen, nearest))
    assert (error <= error_nearest).all()
    assert ((chosen - nearest).abs() <= 1).all()
    assert torch.equal(chosen, chosen.round())
    assert float(chosen.abs().max()) <= 4
    bits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=inputs)))
    low, high = exact.floor().clamp(-4, 4), exact.ceil().clamp(-4, 4)
    for channel in range(2):
        choices = low[0, channel] + bits * (high - low)[0, channel]
        best = rounding_error(hessian, (choices - exact[0, channel])[None])[0].min()
        assert best <= error[channel] * (1 + 1e-5) + 1e-5  # sums of float32, in another order


def test_search_finds_the_optimum_where_flips_one_by_one_would_not():
    """Inputs that cancel: (0, 0) and (1, 1) leave little, but the nearest (1, 0) and all single flips leave more."""
    hessian = torch.tensor([[[1.0, -1.0], [-1.0, 1.0001]]])
    exact = torch.tensor([[[0.6, 0.45]]])
    chosen = search_rounding(hessian, exact, (-8, 8), damping=1e-6, sweeps=10)
    assert chosen.tolist() in ([[[0.0, 0.0]]], [[[1.0, 1.0]]])


@pytest.mark.real_data
def test_resnet20_logits_are_closer_with_adaptive_rounding(shared_data):
    graph = float_graph(resnet20(shared_data), InputSpec((3, 32, 32)))
    calibration, held_out = cifar(shared_data, "cifar10_train4000", 96), cifar(shared_data, "cifar10_test500", 200)
    prepared = prepare(copy.deepcopy(graph), Recipe(load_policy("onnxruntime"), load_observer("histogram")))
    calibrate(prepared, calibration.split(32))
    with torch.no_grad():
        expected = graph(held_out)
        with switched(prepared, Mode.SIMULATE):
            nearest = sqnr(expected, prepared(held_out))
        started = time.perf_counter()
        gains = round_adaptively(prepared, lambda: calibration.split(32), AdaRoundOptions(patches=128), Log())
        seconds = time.perf_counter() - started
        with switched(prepared, Mode.SIMULATE):
            rounded = sqnr(expected, prepared(held_out))
    print(f"ResNet-20 held-out SQNR {nearest:.2f} -> {rounded:.2f} dB in {seconds:.1f} s")
    assert len(gains) == 20
    assert rounded > nearest + 0.2
    assert sum(gain.rounded_mse for gain in gains) < 0.3 * sum(gain.nearest_mse for gain in gains)
    assert seconds < 90


def sqnr(expected, found):
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


def resnet20(shared_data):
    import importlib.util

    spec = importlib.util.spec_from_file_location("shared_nets_adaround", shared_data / "nets.py")
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    network = nets.resnet20()
    state = torch.load(shared_data / "weights/resnet20-12fca82f.th", weights_only=True, map_location="cpu")
    network.load_state_dict({key.removeprefix("module."): value for key, value in state["state_dict"].items()})
    return network.eval()


def cifar(shared_data, folder, count):
    import numpy as np
    from PIL import Image

    paths = sorted((shared_data / "images" / folder).rglob("*.png"))
    paths = paths[:: len(paths) // count][:count]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255 for path in paths])
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()


def test_the_bar_counts_the_layers_of_all_passes_and_the_batches_of_each():
    class Batches:
        def __call__(self):
            return iter(images().split(16))

        def __len__(self):
            return 3

    prepared, _ = prepared_net(make_net())
    log = Log()
    round_adaptively(prepared, Batches(), AdaRoundOptions(memory_bytes=4 * 2 * 36**2), log)
    layers, *passes = log.tracked
    assert layers == ("adaptive rounding: layers", 5)
    assert len(passes) > 1
    assert {total for _, total in passes} == {3}


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"dilation": (2, 1), "padding": (0, 2)}])
def test_patches_are_those_of_im2col(options):
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(4, 6, (3, 2), **options))
    prepared, _ = prepared_net(module)
    (layer,), _ = find_layers(prepared)
    (moments,) = gather_moments(prepared, [layer], [images()], patches=1000, generator=torch.Generator())
    with torch.no_grad():
        columns = nn.functional.unfold(images(), (3, 2), **options).transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.product[0], columns @ columns.T, rtol=1e-4, atol=1e-2)
    assert moments.samples == columns.shape[1]
