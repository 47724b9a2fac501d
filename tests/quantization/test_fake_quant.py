"""Fake quantization: what is trained is what is converted, ranges move and freeze when they should."""

from __future__ import annotations

import copy
from functools import lru_cache

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.graph.capture import call_nodes, parameter_name
from compress.quantization.fake_quant import FrozenBatchNorm, MovingRanges, make_trainable, settle, start
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare, quantizers
from compress.quantization.tensor_quantizer import Mode
from compress.training.mode import set_training

COLOUR = InputSpec((3, 12, 12))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.pool(torch.relu(self.branch(x) + x)).flatten(1))


def images(count=32, seed=0):
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def network(kind=Residual):
    torch.manual_seed(0)
    module = kind().train()
    for _ in range(3):
        module(images())  # running statistics that differ from 0 and 1
    return module.eval()


@lru_cache
def captured():
    return float_graph(network(), COLOUR)


def ready(module=None, policy="onnxruntime", **options):
    graph = float_graph(module, COLOUR) if module else copy.deepcopy(captured())
    make_trainable(graph)
    prepared = prepare(graph, Recipe(load_policy(policy), MinMax, **options))
    calibrate(prepared, [images()])
    start(prepared)
    return prepared


def trained(prepared, steps=4, rate=0.05):
    optimizer = torch.optim.SGD(prepared.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        prepared(images()).square().mean().backward()
        optimizer.step()
    return prepared


@pytest.mark.parametrize(("policy", "per_channel"), [("onnxruntime", True), ("tensorrt", False), ("litert", True)])
def test_what_was_simulated_last_is_what_is_converted(policy, per_channel):
    prepared = trained(ready(policy=policy, per_channel=per_channel))
    settle(prepared)
    fresh = images(64, seed=1)
    scales = [float(q.calculate_qparams()[0]) for q in quantizers(prepared).values() if not q.is_constant]
    with torch.no_grad():
        simulated = prepared(fresh)
        converted = convert(prepared)(fresh)
    step = scales[-1]  # of the logits, or of what the last layer reads where they stay float
    # A bias is rounded to 32 bits on conversion only: where that tips an activation, logits move by a step or two.
    difference = (simulated - converted).abs()
    assert difference.max() <= 2.01 * step
    assert difference.mean() <= 0.5 * step
    best, second = simulated.topk(2).values.T
    clear = best - second > 2 * step
    assert clear.float().mean() > 0.5
    assert torch.equal(simulated.argmax(1)[clear], converted.argmax(1)[clear])


def test_weight_scales_follow_the_weights_until_they_are_settled():
    prepared = ready()
    quantizer = quantizers(prepared)["branch.0.weight"]
    weight = prepared.get_parameter("branch.0.weight")
    before = quantizer.calculate_qparams()[0].clone()
    assert torch.allclose(before, weight.detach().abs().amax((1, 2, 3)) / 127)
    with torch.no_grad():
        weight.mul_(2)
        prepared(images(2))
        assert torch.equal(quantizer.calculate_qparams()[0], 2 * before)
        weight.mul_(2)
        settle(prepared)  # without a forward pass in between, as after loading the best epoch
        assert torch.equal(quantizer.calculate_qparams()[0], 4 * before)
        weight.mul_(2)
        prepared(images(2))
    assert torch.equal(quantizer.calculate_qparams()[0], 4 * before)


def test_every_parameter_learns_and_activation_ranges_stay():
    prepared = ready()
    ranges = {name: q.calculate_qparams()[0].clone() for name, q in quantizers(prepared).items() if not q.is_constant}
    before = copy.deepcopy(dict(prepared.named_parameters()))
    trained(prepared)
    assert before.keys() == {
        f"{layer}.{part}" for layer in ("stem.0", "branch.0", "head") for part in ("weight", "bias")
    }
    assert all(not torch.equal(value, before[name]) for name, value in prepared.named_parameters())
    assert all(torch.equal(quantizers(prepared)[name].calculate_qparams()[0], value) for name, value in ranges.items())


def test_pruned_weights_are_the_integer_zero():
    module = network()
    with torch.no_grad():
        module.branch[0].weight[:, ::2] = 0
    prepared = ready(module)
    settle(prepared)
    integers = convert(prepared).state_dict()["branch.0.weight"]
    assert integers.dtype is torch.int8
    assert not integers[:, ::2].any()
    assert integers[:, 1::2].any()


def test_ranges_move_in_the_first_epochs_only():
    prepared, hook = ready(), MovingRanges(3, lambda: [5 * images()])
    quantizer, weight = quantizers(prepared)["input"], quantizers(prepared)["head.weight"]
    scale, weight_scale = (q.calculate_qparams()[0].clone() for q in (quantizer, weight))
    hook.at_epoch(prepared, 0)  # just calibrated
    assert torch.equal(quantizer.calculate_qparams()[0], scale)
    hook.at_epoch(prepared, 2)
    assert quantizer.calculate_qparams()[0] == pytest.approx(5 * scale)
    assert torch.equal(weight.calculate_qparams()[0], weight_scale)
    assert {q.mode for q in quantizers(prepared).values()} == {Mode.SIMULATE}
    later = MovingRanges(3, lambda: [images()])
    later.at_epoch(prepared, 3)
    assert quantizer.calculate_qparams()[0] == pytest.approx(5 * scale)


def test_a_state_dict_carries_the_ranges():
    first, second = ready(), ready()
    MovingRanges(2, lambda: [5 * images()]).at_epoch(first, 1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(second(images()), first(images()))


class Dense(nn.Module):
    """A normalisation after a concatenation, which no convolution can take in."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.norm(torch.cat((self.conv(x), x[:, :, 1:-1, 1:-1]), dim=1))
        return self.head(torch.relu(x).mean((2, 3)))


def test_normalisations_that_stay_keep_their_statistics():
    prepared = ready(network(Dense))
    before = prepared.norm.running_mean.clone()
    set_training(prepared, True)
    FrozenBatchNorm().at_epoch(prepared, 0)
    prepared(images(4))
    assert torch.equal(prepared.norm.running_mean, before)
    assert not next(node for node in call_nodes(prepared) if "batch_norm" in str(node.target)).args[5]


def test_frozen_parameters_and_buffers_become_trainable():
    module = network().requires_grad_(False)
    weight = module.head.weight.detach()
    del module.head.weight
    module.head.register_buffer("weight", weight)
    graph = float_graph(module, COLOUR)
    make_trainable(graph)
    names = dict(graph.named_parameters())
    assert {parameter_name(node) for node in graph.graph.find_nodes(op="get_attr")} <= set(names)
    assert all(parameter.requires_grad for parameter in names.values())


def test_simulation_needs_a_calibration():
    prepared = prepare(copy.deepcopy(captured()), Recipe(load_policy("onnxruntime"), MinMax))
    with pytest.raises(StageError, match=r"saw no calibration data \| fix: give the calibration split images"):
        start(prepared)
