"""Weights dequantized once: the same numbers, and nothing else changed."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from compress.graph.capture import call_nodes, capture
from compress.graph.stored_weights import with_weights_restored


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def operators(graph):
    return Counter(str(node.target).split(".")[1] for node in call_nodes(graph))


@pytest.mark.parametrize("policy", ["onnxruntime", "litert"])
def test_weights_are_dequantized_once_to_the_same_numbers(kit, policy):
    images = torch.randn(8, *kit.spec.shape)
    graph = kit.quantize(network(), images, kit.spec, kit.recipe(policy))
    before, state = operators(graph), copy.deepcopy(graph.state_dict())
    restored = with_weights_restored(graph)
    assert torch.equal(restored(images), graph(images))
    after = operators(restored)
    assert before["dequantize_per_channel"] > 0
    assert after["dequantize_per_channel"] == 0
    assert after["quantize_per_tensor"] == after["dequantize_per_tensor"] == before["quantize_per_tensor"]
    assert operators(graph) == before
    assert graph.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in graph.state_dict().items())


def test_a_graph_with_torchs_own_checks_of_the_input(kit):
    """As a user's own PT2E quantization hands it over."""
    image = torch.randn(1, *kit.spec.shape)
    graph = torch.export.export(kit.quantize(network(), image, kit.spec, kit.recipe()), (image,)).module()
    assert graph.graph.find_nodes(op="call_module")
    restored = with_weights_restored(graph)
    assert operators(restored)["dequantize_per_channel"] == 0
    assert torch.equal(restored(image), graph(image))


def test_a_graph_without_stored_integers_is_left_as_it_is(kit):
    graph = capture(network(), kit.spec)
    assert with_weights_restored(graph) is graph
