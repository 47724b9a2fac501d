"""Live modules on disk and back, without running code from the file."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import InputSpec
from compress.graph.capture import capture
from compress.models.persist import load_module, save_module
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare

INPUT = InputSpec((3, 8, 8))


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Malicious(nn.Module):
    def __reduce__(self):
        return (print, ("code from the file ran",))


@pytest.fixture
def image():
    return torch.randn(3, *INPUT.shape, generator=torch.Generator().manual_seed(0))


def test_an_ordinary_module_comes_back_equal_and_in_eval_mode(tmp_path, image):
    model = Tiny().eval()
    name = save_module(model, INPUT, tmp_path, source=model)
    assert name == "module.pt"
    again = load_module(tmp_path / name, source=Tiny())
    assert isinstance(again, Tiny)
    assert not again.training
    assert torch.equal(model(image), again(image))


def test_a_captured_graph_comes_back_equal_for_any_batch(tmp_path, image):
    graph = capture(Tiny().eval(), INPUT)
    name = save_module(graph, INPUT, tmp_path, source=None)
    assert name == "module.pt2"
    again = load_module(tmp_path / name, source=None)
    assert torch.equal(graph(image), again(image))
    assert again(image[:1]).shape == (1, 5)


def test_a_quantized_graph_comes_back_equal(tmp_path, image):
    target = load_target("raspberry_pi_4", [])
    recipe = Recipe(policy=load_policy(target.int8.placement), activation_observer=MinMax)
    prepared = prepare(float_graph(Tiny().eval(), INPUT), recipe)
    calibrate(prepared, [image])
    quantized = convert(prepared)
    name = save_module(quantized, INPUT, tmp_path, source=None)
    assert name == "module.pt2"
    assert torch.equal(quantized(image), load_module(tmp_path / name, source=None)(image))


def test_layers_named_by_number_come_back(tmp_path, image):
    graph = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval(), INPUT)
    name = save_module(graph, INPUT, tmp_path, source=None)
    assert torch.equal(graph(image), load_module(tmp_path / name, source=None)(image))


def test_a_class_that_is_not_of_the_source_is_not_kept(tmp_path):
    assert save_module(Tiny(), INPUT, tmp_path, source=nn.Linear(1, 1)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_module_holding_a_function_is_not_kept(tmp_path):
    model = Tiny()
    model.make = functools.partial(print, "hello")
    assert save_module(model, INPUT, tmp_path, source=model) is None


def test_code_in_a_stored_file_does_not_run(tmp_path, capsys):
    torch.save(Malicious(), tmp_path / "module.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_module(tmp_path / "module.pt", source=Tiny())
    assert capsys.readouterr().out == ""


def test_a_module_that_cannot_be_pickled_is_not_kept(tmp_path):
    model = Tiny()
    model.shortcut = lambda x: x[:, :, ::2, ::2]
    assert save_module(model, INPUT, tmp_path, source=model) is None
    assert list(tmp_path.iterdir()) == []


class Unwilling(Tiny):
    def __getstate__(self):
        raise ValueError("not me")


def test_a_module_whose_own_code_refuses_to_be_pickled_is_not_kept(tmp_path):
    model = Unwilling()
    assert save_module(model, INPUT, tmp_path, source=model) is None


class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.blocks = nn.ModuleDict({name: nn.Conv2d(3, 4, 3), "bn": nn.BatchNorm2d(4)})
        self.name = name

    def forward(self, x):
        return self.blocks["bn"](self.blocks[self.name](x)).mean((2, 3))


@pytest.mark.parametrize("name", ["stem/conv", "stem conv", "a:b", "käse", "__x", "畳み込み", "0", "a-b", "(1+1)"])
def test_unusual_layer_names_come_back(tmp_path, image, name):
    graph = capture(Named(name).eval(), INPUT)
    file = save_module(graph, INPUT, tmp_path, source=None)
    assert file == "module.pt2"
    again = load_module(tmp_path / file, source=None)
    assert torch.equal(graph(image), again(image))
    assert f"blocks.{name}.weight" in dict(again.named_parameters())


def test_a_layer_name_that_could_be_code_is_not_kept(tmp_path):
    graph = capture(Named("a'b").eval(), INPUT)
    assert save_module(graph, INPUT, tmp_path, source=None) is None


def test_a_graph_is_stored_without_being_traced_again(tmp_path, image, monkeypatch):
    class Sized(nn.Module):
        """Reads its batch, and has a buffer besides its weights."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("offset", torch.arange(4.0))

        def forward(self, x):
            return self.conv(x).amax((2, 3)).reshape(x.shape[0], 2, 2).flatten(1) + self.offset

    graph = capture(Sized().eval(), INPUT)
    monkeypatch.setattr(torch.export, "export", lambda *args, **kwargs: pytest.fail("traced again"))
    name = save_module(graph, INPUT, tmp_path, source=None)
    again = load_module(tmp_path / name, source=None)
    for count in (1, 3):
        assert torch.equal(graph(image[:count]), again(image[:count]))
    assert dict(again.named_parameters()).keys() == {"conv.weight", "conv.bias"}
    assert dict(again.named_buffers()).keys() == {"offset"}


def test_a_graph_that_takes_one_image_stays_one(tmp_path, image):
    class One(nn.Module):
        def forward(self, x):
            return x.view(1, -1)

    graph = capture(One(), INPUT)
    name = save_module(graph, INPUT, tmp_path, source=None)
    again = load_module(tmp_path / name, source=None)
    assert torch.equal(graph(image[:1]), again(image[:1]))
