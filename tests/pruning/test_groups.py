"""Groups of channels: what belongs together is found, proves itself, and is cut as if it had been zero."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.core.errors import StageError
from compress.pruning.network import analyse
from compress.pruning.shapes import layer_shapes

sys.path.insert(0, str(Path(__file__).parent))
from networks import NAMES, RGB, Classifier, build, layer


def images():
    return torch.randn(2, *RGB.shape, generator=torch.Generator().manual_seed(1))


def analysed(module, exclude=()):
    return analyse(module, RGB, exclude, "structured", 0)


@pytest.mark.parametrize("name", NAMES)
def test_cutting_half_of_every_group_equals_zeroing_it(name):
    module = build(name)
    before = copy.deepcopy(module.state_dict())
    network = analysed(module)
    silenced = copy.deepcopy(network.module)
    half = {group.name: tuple(range(group.units // 2)) for group in network.groups}
    for group in network.groups:
        group.silence(silenced, half[group.name])
    network.remove(half, images(), "structured")
    with torch.no_grad():
        expected, found = silenced(images()), network.module(images())
        assert not torch.allclose(expected, module(images()), atol=1e-4)
    assert torch.allclose(expected, found, atol=1e-5 * max(1, float(expected.abs().max())))
    parameters = sum(p.numel() for p in network.module.parameters())
    assert parameters < 0.85 * sum(p.numel() for p in module.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_cuts_say_what_each_unit_takes_from_each_layer(name):
    network = analysed(build(name))
    for group in network.groups:
        trial = analysed(build(name))
        before = layer_shapes(trial.module, RGB)
        trial.remove({group.name: (0,)}, images(), "structured")
        after = layer_shapes(trial.module, RGB)
        for layer_name, shape in before.items():
            cut = group.cuts.get(layer_name)
            assert after[layer_name] == (shape if cut is None else cut.applied(shape)), (group.name, layer_name)


def names(network):
    return {group.name for group in network.groups}


def test_what_is_found_and_what_is_held():
    residual = analysed(build("residual"))
    assert names(residual) == {"body.0.0", "body.1.first.0", "body.2.first.0"}
    stem = next(group for group in residual.groups if group.name == "body.0.0")
    assert {"body.1.second.0", "body.2.second.0", "head"} <= stem.cuts.keys()
    assert analysed(build("depthwise")).groups[0].cuts["body.1.0"].groups == 1
    shuffled = analysed(build("shuffle"))
    assert "body.0.0" not in names(shuffled)
    assert "body.0.0" in shuffled.held
    padded = analysed(build("padded"))
    assert names(padded) == {"body.1.first.0"}
    assert padded.held


def test_grouped_convolutions_lose_a_channel_of_each_group():
    group = next(g for g in analysed(build("grouped")).groups if "body.2.0" in g.cuts)
    assert group.width == 4
    assert group.units == 8


def test_heads_are_a_group_and_the_width_of_the_model_stays():
    network = analysed(build("transformer"))
    assert names(network) == {"up", "attention"}
    heads = next(group for group in network.groups if group.name == "attention")
    assert (heads.units, heads.width) == (4, 8)
    network.remove({"attention": (1, 2)}, images(), "structured")
    attention = network.module.attention
    assert (attention.heads, attention.query.out_features, attention.out_proj.in_features) == (2, 16, 16)
    assert attention.out_proj.out_features == 32


def test_excluded_layers_keep_their_outputs():
    network = analysed(build("residual"), ["body.1"])
    assert names(network) == {"body.2.first.0"}  # the stem is tied to body.1.second


def test_an_exclude_pattern_without_a_match_lists_near_names():
    with pytest.raises(StageError, match=r"exclude pattern 'body\.9' matches no prunable layer .* body\.1"):
        analysed(build("residual"), ["body.9"])


def test_shared_weights_are_an_error_unless_excluded():
    module = build("residual")
    module.body[2].first[0].weight = module.body[1].first[0].weight
    with pytest.raises(StageError, match=r"body\.1\.first\.0 and body\.2\.first\.0 share one weight.*exclude=\["):
        analysed(module)
    assert names(analysed(module, ["body.1.first.0", "body.2.first.0"])) == {"body.0.0"}


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = layer(3, 16), layer(16, 16)

    def forward(self, x):
        return self.second(self.first(x).detach())


def test_a_module_that_cannot_be_traced_is_named():
    module = Classifier(Detached(), 16).eval()
    with pytest.raises(StageError, match=r"cannot be traced through 'body\.first\.0': no gradient flows .*exclude"):
        analysed(module)
    assert names(analysed(module, ["body.first.0"])) == {"body.second.0"}


def test_a_captured_graph_and_a_model_without_layers_are_refused():
    captured = torch.export.export(build("plain"), (images(),)).module()
    with pytest.raises(StageError, match=r"captured graph of operators.*model=factory"):
        analysed(captured)
    with pytest.raises(StageError, match="no convolution or linear layer"):
        analysed(nn.Sequential(nn.Flatten()))


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        mask = torch.ones(16, 16, dtype=torch.bool).triu(1)
        y = self.attention(x, x, x, need_weights=False, attn_mask=mask)[0]
        return self.head(y.mean(1))


def test_attention_with_a_mask_is_left_as_it_is():
    with pytest.raises(StageError, match="no channel of the model can be cut"):
        analysed(Masked().eval())
