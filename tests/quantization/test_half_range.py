"""Constants and activations that float16 cannot hold: saturated and said, or refused with layer and value."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from doubles import GRAY, noise, stage_context
from torch import nn

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import StageError
from compress.graph.capture import capture
from compress.quantization.half import FLOAT16_MAX, to_half
from compress.quantization.half_range import check_half, overflows, saturated
from compress.stages.quantize.fp16 import Fp16

ROWS = 8


class Masked(nn.Module):
    """Attention between rows of an image; where it must not look, scores are very low: four ways of writing it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.key, self.head = nn.Linear(8, 8), nn.Linear(8, 10)
        far = torch.ones(ROWS, ROWS, dtype=torch.bool).triu(2)
        self.register_buffer("far", far)
        low = -float("inf") if how == "infinite" else -1e9
        self.register_buffer("bias", torch.zeros(ROWS, ROWS).masked_fill(far, low))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, 0]
        scores = self.key(x) @ x.transpose(1, 2)
        if self.how == "fill":
            scores = scores.masked_fill(self.far, -1e9)
        elif self.how == "integer":
            scores = scores.masked_fill(self.far, -(10**9))
        elif self.how == "where":
            scores = torch.where(self.far, torch.tensor(-1e9), scores)
        elif self.how == "product":
            scores = scores + self.far.float() * -1e9
        else:
            scores = scores + self.bias
        return self.head((scores.softmax(-1) @ x).mean(1))


class Loud(nn.Module):
    """Scaled to unit length: the squares overflow, the result would not."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x).mean((2, 3)) * self.gain
        return self.head(x / (x * x).sum(1, keepdim=True).sqrt().clamp(min=1e-6))


class Splits:
    classes = ()

    def __init__(self) -> None:
        self.calibration = noise(16, GRAY.shape)


def run(module: nn.Module) -> Artifact:
    return Fp16().run(Artifact(Format.TORCH, module, Precision.FP32, GRAY), stage_context("fp16", splits=Splits()))


def images(count: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([batch.images for batch in noise(count, GRAY.shape).batches(count)]))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("how", ["fill", "integer", "where", "product", "buffer"])
def test_masks_end_at_the_largest_float16_and_are_noted(how):
    module = Masked(how).eval()
    result = run(module)
    assert "constants that end at +-65504" in result.notes["float16"]
    assert "(-1e+09)" in result.notes["float16"]
    torch.testing.assert_close(result.module(images()), module(images()), atol=5e-3, rtol=5e-3)
    assert module.bias.min() == -1e9  # the source stays what it was


def test_infinite_masks_stay_infinite_and_need_no_note():
    module = Masked("infinite").eval()
    result = run(module)
    assert result.notes == {}
    torch.testing.assert_close(result.module(images()), module(images()), atol=5e-3, rtol=5e-3)


def test_nothing_is_copied_where_nothing_is_too_large():
    graph = capture(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), GRAY)
    assert saturated(graph) == (graph, ())


def test_a_saturated_graph_keeps_the_other_one():
    graph = capture(Masked("buffer").eval(), GRAY)
    limited, constants = saturated(graph)
    assert [(beyond.layer, beyond.value) for beyond in constants] == [("bias", -1e9)]
    assert limited.bias.min() == -FLOAT16_MAX
    assert graph.bias.min() == -1e9


@pytest.mark.parametrize("gain", [3e4, 1e5])
def test_an_activation_that_overflows_is_named_with_its_value(gain):
    with pytest.raises(StageError, match=r"^float16 ends at 65504, layer 'mul[_0-9]*' reaches \d\.\d+e\+\d+ on "):
        run(Loud(gain).eval())


def test_the_fix_is_the_one_that_works():
    with pytest.raises(StageError) as caught:
        run(Loud(3e4).eval())
    assert caught.value.fix == "precision=fp32"


def test_a_layer_is_called_as_the_user_calls_it():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10)).eval()
    with torch.no_grad():
        module[0].weight.fill_(6e4)
    beyond = overflows(capture(module, GRAY), [images(2).numpy(), images(4).numpy()[2:]])
    assert [entry.layer for entry in beyond] == ["0", "1", "2"]
    with torch.no_grad():
        values = module[0](images()).flatten()
    assert beyond[0].value == pytest.approx(float(values[values.abs().argmax()]))


def test_a_quiet_network_says_nothing():
    result = run(Loud(1.0).eval())
    assert result.notes == {}


def test_what_is_infinite_without_harm_is_noted():
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.sigmoid(torch.flatten(x, 1) * 3e4 * 3e4))

    result = run(Gate().eval())
    assert "infinite in float16 without harm on calibration images: 'mul' (" in result.notes["float16"]


def test_a_constant_that_is_no_mask_is_refused_when_it_matters():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)
            self.register_buffer("scale", torch.full((10,), 3e5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.flatten(x, 1) / 1e3) / self.scale

    with pytest.raises(StageError, match=r"constant 'scale' holds 3e\+05: .*fix: precision=fp32"):
        run(Scaled().eval())


def test_integers_stay_integers():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(3000, 4), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(x).mean(1))

    module = Tokens().eval()
    tokens = torch.tensor([[2049, 2051, 2999]])  # float16 has no odd numbers above 2048
    wrapped = to_half(module)
    exported = to_half(torch.export.export(copy.deepcopy(module), (tokens,)).module())
    for half in (wrapped, exported):
        torch.testing.assert_close(half(tokens), module(tokens), atol=1e-2, rtol=1e-2)


def test_integer_outputs_stay_integers():
    class Labels(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flatten(x, 1).argmax(1)

    half = to_half(torch.export.export(Labels(), (images(1),)).module())
    assert half(images(1)).dtype is torch.int64


def test_without_a_graph_nothing_is_named():
    module = Loud(3e4).eval()
    assert check_half(module, to_half(module), None, (), [images().numpy()]) == {}
