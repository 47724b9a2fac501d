"""Magnitude pruning: exact counts, untouched survivors, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from doubles import Log, stage_context
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.graph.weights import compute_weights
from compress.pruning.unstructured import prune_smallest
from compress.stages.prune.magnitude import Magnitude


def context(log=None):
    return stage_context("magnitude", log=log)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.Flatten(), nn.Linear(147, 5)
    ).eval()


def artifact(module):
    return Artifact(Format.TORCH, module, Precision.FP32, InputSpec((1, 8, 8), "gray", (0.5,), (0.5,)))


def zeros(module):
    return {w.layer: w.zeros() for w in compute_weights(module)}


def test_local_counts_are_exact_and_the_input_is_untouched():
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pruned = Magnitude(amount=0.3, scope="local").run(artifact(module), context())
    assert zeros(pruned.module) == {"0": round(0.3 * 36), "3": round(0.3 * 48), "5": round(0.3 * 735)}
    assert pruned.history == ("magnitude",)
    assert pruned.module is not module
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in pruned.module.state_dict().items():
        survivors = value != 0
        assert torch.equal(value[survivors], before[name][survivors])
        if "bias" in name or name.startswith("1."):
            assert torch.equal(value, before[name])


def test_global_scope_takes_the_smallest_of_all_layers_and_names_an_emptied_one():
    module = network()
    with torch.no_grad():
        module[0].weight.mul_(1e-6)
    log = Log()
    pruned = Magnitude(amount=0.5, scope="global").run(artifact(module), context(log)).module
    counts = zeros(pruned)
    assert sum(counts.values()) == round(0.5 * (36 + 48 + 735))
    assert counts["0"] == 36
    assert log.lines == ["magnitude: every weight became zero in 0"]


def test_zeros_that_were_there_before_count_as_pruned():
    module = network()
    with torch.no_grad():
        module[5].weight[:2] = 0  # 294 of 735
    assert zeros(Magnitude(amount=0.2, scope="local").run(artifact(module), context()).module)["5"] == 294
    assert zeros(Magnitude(amount=0.5, scope="local").run(artifact(module), context()).module)["5"] == round(0.5 * 735)


def test_a_captured_graph_is_pruned_like_the_module_it_came_from():
    module = network()
    captured = torch.export.export(module, (torch.zeros(2, 1, 8, 8),)).module()
    from_graph = Magnitude(amount=0.4, scope="local", exclude=("3",)).run(artifact(captured), context()).module
    from_module = Magnitude(amount=0.4, scope="local", exclude=("3",)).run(artifact(module), context()).module
    assert zeros(from_graph) == zeros(from_module) == {"0": 14, "3": 0, "5": 294}
    sample = torch.randn(2, 1, 8, 8)
    assert torch.allclose(from_graph(sample), from_module(sample), atol=1e-6)
    assert zeros(captured)["0"] == 0


@pytest.mark.parametrize("pattern", ["block.0", "block.0.weight", "block.?", "block*", "block"])
def test_exclude_takes_layers_modules_parameters_and_patterns(pattern):
    module = nn.Sequential()
    module.block = nn.Sequential(nn.Conv2d(1, 2, 3))
    module.head = nn.Linear(4, 4)
    counts = zeros(Magnitude(amount=0.5, exclude=(pattern,)).run(artifact(module), context()).module)
    assert counts == {"block.0": 0, "head": 8}


def test_an_exclude_pattern_without_a_match_lists_near_names():
    module = nn.Sequential()
    module.block = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(StageError, match=r"exclude pattern 'blok\.0' matches no prunable layer .* block\.0"):
        Magnitude(exclude=("blok.0",)).run(artifact(module), context())


def test_a_model_without_prunable_weights_and_one_that_is_all_excluded_are_errors():
    with pytest.raises(StageError, match="no convolution or linear layer"):
        Magnitude().run(artifact(nn.Sequential(nn.ReLU())), context())
    with pytest.raises(StageError, match="exclude leaves no layer to prune"):
        Magnitude(exclude=("*",)).run(artifact(network()), context())


def test_computed_weights_and_nan_weights_are_errors_that_name_the_layer():
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(StageError, match=r"weight of '0' is computed or packed.*exclude=\[0\]"):
        Magnitude().run(artifact(normed), context())
    broken = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(StageError, match="weight of '0' holds NaN"):
        Magnitude().run(artifact(broken), context())


def test_only_fp32_inputs_are_accepted():
    Magnitude().requires(SimpleNamespace(), Precision.FP32, "magnitude")
    with pytest.raises(Refusal, match=r"already int8 \| fix: prune first: stage\.magnitude\.before="):
        Magnitude().requires(SimpleNamespace(), Precision.INT8, "magnitude")


@pytest.mark.parametrize("options", [{"amount": 1.0}, {"amount": -0.1}, {"amount": float("nan")}, {"scope": "layer"}])
def test_impossible_options_do_not_validate(options):
    with pytest.raises(ValidationError):
        Magnitude(**options)


integers = st.lists(st.integers(-4, 4), min_size=1, max_size=60)  # few values: many ties


@settings(max_examples=150, deadline=None)
@given(values=integers, amount=st.floats(0, 0.999))
def test_law_the_count_is_exact_and_survivors_keep_their_values(values, amount):
    before = torch.tensor(values, dtype=torch.float32)
    after = before.clone()
    prune_smallest([after], amount)
    assert int((after == 0).sum()) == max(round(amount * len(values)), int((before == 0).sum()))
    kept = after != 0
    assert torch.equal(after[kept], before[kept])
    removed = before[~kept].abs()
    assert not kept.any() or removed.numel() == 0 or removed.max() <= before[kept].abs().min()


@settings(max_examples=100, deadline=None)
@given(values=integers, amount=st.floats(0, 0.999), exponent=st.integers(-20, 20))
def test_law_the_local_mask_does_not_depend_on_scale(values, amount, exponent):
    plain = torch.tensor(values, dtype=torch.float32)
    scaled = plain * 2.0**exponent
    prune_smallest([plain], amount)
    prune_smallest([scaled], amount)
    assert torch.equal(plain == 0, scaled == 0)


@settings(max_examples=50, deadline=None)
@given(first=integers, second=integers, amount=st.floats(0, 0.999))
def test_law_the_global_count_is_exact_over_all_tensors(first, second, amount):
    tensors = [torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)]
    zeros_before = sum(int((t == 0).sum()) for t in tensors)
    prune_smallest(tensors, amount)
    expected = max(round(amount * (len(first) + len(second))), zeros_before)
    assert sum(int((t == 0).sum()) for t in tensors) == expected
