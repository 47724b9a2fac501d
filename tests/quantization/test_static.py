"""One path for all static INT8: the recovery steps in their order, and patterns that name layers."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from doubles import Log, noise
from recipes import make_recipe, sqnr_db
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.quantization import static
from compress.quantization.ptq import convert, float_graph
from compress.quantization.static import CalibrationImages, Recovery, layers_matching, quantize

SPEC = InputSpec((3, 8, 8))
IMAGES = noise(20, SPEC.shape)


def network():
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 8, 3), "act": nn.ReLU(), "body": nn.Conv2d(8, 8, 3), "act2": nn.ReLU()}
    return nn.Sequential(OrderedDict(**layers, flat=nn.Flatten(), head=nn.Linear(128, 5))).eval()


def uneven():
    """The same function as `network()`, with channels of very different size between the first two layers."""
    module = network()
    factor = torch.logspace(-2, 2, 8)
    with torch.no_grad():
        module.stem.weight.mul_(factor.view(-1, 1, 1, 1))
        module.stem.bias.mul_(factor)
        module.body.weight.div_(factor.view(1, -1, 1, 1))
    return module


def run(recovery, module, **options):
    graph = float_graph(module, SPEC)
    recipe = make_recipe(**options)
    calibrated = quantize(graph, recipe, recovery, CalibrationImages(IMAGES, 8), Log())
    return convert(calibrated.prepared), calibrated.did


def test_images_start_over_and_know_their_batches():
    images = CalibrationImages(IMAGES, 8)
    assert [len(batch) for batch in images()] == [len(batch) for batch in images()] == [8, 8, 4]
    assert len(images) == 3


def test_equalization_undoes_uneven_channels():
    x = torch.from_numpy(IMAGES.images)
    reference = network()(x)
    plain, did = run(Recovery(), uneven(), per_channel=False)
    assert did == ()
    equalized, did = run(Recovery(equalize="weights"), uneven(), per_channel=False)
    assert did[0].startswith("equalized ")
    assert sqnr_db(reference, equalized(x)) > sqnr_db(reference, plain(x)) + 6


def test_steps_run_in_order_and_each_says_what_it_did(monkeypatch):
    order = []
    for name in ("prepare", "calibrate", "_rescale", "_correct", "_round"):
        real = getattr(static, name)

        def spy(*arguments, name=name, real=real):
            order.append(name)
            return real(*arguments)

        monkeypatch.setattr(static, name, spy)
    everything = Recovery(equalize="weights", smooth=0.5, bias_correction=True, rounding="adaptive")
    graph, did = run(everything, network())
    assert order == ["_rescale", "prepare", "calibrate", "_round", "_correct"]
    assert [phrase.split()[0] for phrase in did] == ["equalized", "smoothed", "rounded", "corrected"]
    assert did[1] == "smoothed 0 normalisations"
    x = torch.from_numpy(IMAGES.images)
    assert sqnr_db(network()(x), graph(x)) > 25


def test_patterns_name_layers_modules_and_nothing_by_mistake():
    graph, recipe = float_graph(network(), SPEC), make_recipe()
    assert layers_matching(graph, recipe, ()) == frozenset()
    assert layers_matching(graph, recipe, ["stem", "h*"]) == {"stem", "head"}
    with pytest.raises(StageError, match=r"keep_float pattern 'steem' matches no layer.*names near it: stem"):
        layers_matching(graph, recipe, ["stem", "steem"])
