"""From a layer on: the same logits as the whole network gives, and nothing before the layer computed again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats.runtimes import load_for_answers
from compress.graph.weights import compute_weights
from compress.pruning.from_layer import runner_from
from compress.pruning.sensitivity import Weights

SPEC = InputSpec((3, 12, 12))
IMAGES = np.random.default_rng(0).standard_normal((3, *SPEC.shape)).astype(np.float32)


class Branches(nn.Module):
    """A residual block, two heads in another order than their names', and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.late = nn.Linear(8, 5)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.shared = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        x = self.shared(x + self.body(x))
        return self.late(self.shared(x).relu().mean((2, 3)))


def artifact(module):
    return Artifact(Format.TORCH, module.eval(), Precision.FP32, SPEC)


@pytest.mark.parametrize("ordered", [True, False])
def test_logits_are_those_of_the_whole_network_with_that_layer_pruned(ordered):
    model = artifact(Branches())
    layers, run = runner_from(model)
    whole = load_for_answers(model)
    exact = whole(IMAGES)
    weights = compute_weights(model.module)
    assert [weight.layer for weight in weights] != ["stem", "body.0", "shared", "late"]
    if ordered:
        weights = sorted(weights, key=layers.place)
        assert [weight.layer for weight in weights] == ["stem", "body.0", "shared", "late"]
    for weight in weights:
        with Weights(weight).pruned(0.6):
            layers.start_at(weight)
            for images in (IMAGES, IMAGES[:1]):
                np.testing.assert_allclose(run(images), whole(images), rtol=0, atol=1e-6)
            assert not np.allclose(run(IMAGES), exact, atol=1e-4)


def test_only_what_follows_a_layer_is_computed_again(monkeypatch):
    model = artifact(Branches())
    layers, run = runner_from(model)
    computed = []
    run_node = layers._interpreter.run_node
    monkeypatch.setattr(layers._interpreter, "run_node", lambda node: computed.append(node) or run_node(node))
    counts = {}
    for weight in sorted(compute_weights(model.module), key=layers.place):
        layers.start_at(weight)
        run(IMAGES)
        before = len(computed)
        run(IMAGES)
        counts[weight.layer] = len(computed) - before
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert counts["late"] == 2  # itself and the result


def test_a_network_without_a_graph_for_batches_is_run_whole():
    class Single(nn.Module):
        def forward(self, x):
            return x.reshape(1, -1)

    class Untraceable(nn.Module):
        def forward(self, x):
            return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)

    assert runner_from(replace(artifact(Single()), dynamic_batch=False)) is None
    assert runner_from(artifact(Untraceable())) is None


def test_a_folded_network_is_seen_to_change():
    """Folding leaves parts behind that nobody put into eval mode."""
    module = Branches().eval()
    module.body[1] = nn.Identity()
    model = Artifact(Format.TORCH, module, Precision.FP32, SPEC)
    layers, run = runner_from(model)
    exact = run(IMAGES)
    for weight in compute_weights(module):
        with Weights(weight).pruned(0.6):
            layers.start_at(weight)
            assert not np.allclose(run(IMAGES), exact, atol=1e-4)
