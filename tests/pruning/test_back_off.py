"""Backing off: the cheapest layers first, as much as fits, and nothing where nothing fits."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.core.budget import Verdict
from compress.graph.weights import compute_weights
from compress.pruning.back_off import fit_amount
from compress.pruning.unstructured import prune_smallest


def two_layers():
    """The second layer's outputs are a thousand times as loud."""
    torch.manual_seed(0)
    module = nn.ModuleList([nn.Linear(20, 10, bias=False), nn.Linear(20, 10, bias=False)])
    with torch.no_grad():
        module[1].weight.copy_(module[0].weight)
    return module


def judge_of(module):
    images = torch.randn(50, 20, generator=torch.Generator().manual_seed(1))
    calls = []

    def outputs():
        with torch.no_grad():
            return module[0](images) + 30 * module[1](images)

    exact = outputs()

    def judge():
        calls.append(1)
        noise = float((outputs() - exact).square().sum())
        sqnr = float("inf") if noise == 0 else float(10 * torch.log10(exact.square().sum() / noise))
        return Verdict(50, 50, 0, 0, 1.0, sqnr)

    return judge, calls


def below(least_db):
    return lambda verdict: least_db - verdict.sqnr_db


def fitted(least_db, amount=0.4):
    module = two_layers()
    judge, calls = judge_of(module)
    weights = compute_weights(module)
    result = fit_amount(weights, amount, judge, below(least_db), lambda layer: judge(), lambda layers: layers)
    return result, [weight.zeros() / weight.tensor.numel() for weight in weights], judge, calls


def test_the_layer_that_the_outputs_notice_least_is_pruned_first():
    result, shares, judge, calls = fitted(30)
    assert result.amount == 0.4
    assert shares[0] > 0.75
    assert shares[1] < 0.05
    assert judge().sqnr_db >= 30
    assert (result.scanned, result.verdicts) == (2, 1)
    assert len(calls) == 4  # two layers, one amount, and the line above


def test_the_amount_is_the_largest_that_fits():
    result, shares, judge, calls = fitted(45)
    assert 0 < result.amount < 0.4
    assert abs(sum(shares) / 2 - result.amount) < 0.01
    assert result.verdict.sqnr_db >= 45
    assert judge() == result.verdict
    assert len(calls) == 2 + result.verdicts + 1
    assert result.verdicts <= 1 + 5  # bisection takes 1 + 6


def test_no_more_fits_than_a_64th_of_the_amount():
    result, *_ = fitted(45)
    module = two_layers()
    judge, _ = judge_of(module)
    weights = compute_weights(module)
    original = [weight.tensor.detach().clone() for weight in weights]
    noises = []
    for extra in (0.0, 0.4 / 64):
        with torch.no_grad():
            for weight, tensor in zip(weights, original, strict=True):
                weight.tensor.copy_(tensor)
        prune_smallest([weight.tensor for weight in weights], result.amount + extra, [1.0, 30.0], most=0.9)
        noises.append(judge().sqnr_db)
    assert noises[0] >= 45 > noises[1]


def test_nothing_fits():
    result, shares, *_ = fitted(1e9)
    assert (result.amount, result.verdict, shares) == (0.0, None, [0.0, 0.0])


def test_a_silent_layer_and_an_empty_one_do_not_upset_the_order():
    module = two_layers()
    with torch.no_grad():
        module[0].weight.zero_()
    judge, _ = judge_of(module)
    weights = compute_weights(module)
    result = fit_amount(weights, 0.4, judge, below(20), lambda layer: judge(), lambda layers: layers)
    assert result.amount == 0.4
    assert weights[0].zeros() == 200


def test_a_layer_that_makes_no_difference_is_not_emptied():
    module = two_layers()
    with torch.no_grad():
        module[0].weight.mul_(0.01)
    weights = compute_weights(module)
    images = torch.randn(50, 20, generator=torch.Generator().manual_seed(1))
    exact = module[1](images).detach()

    def judge():  # the first layer is not in the outputs
        noise = float((module[1](images).detach() - exact).square().sum())
        sqnr = float("inf") if noise == 0 else float(10 * torch.log10(exact.square().sum() / noise))
        return Verdict(50, 50, 0, 0, 1.0, sqnr)

    result = fit_amount(weights, 0.5, judge, below(10), lambda layer: judge(), lambda layers: layers)
    assert [weight.zeros() for weight in weights] == [180, 20]
    assert result.amount == 0.5
    again = fit_amount(weights, 0.95, judge, lambda verdict: -math.inf, lambda layer: judge(), lambda layers: layers)
    assert (again.amount, [weight.zeros() for weight in weights]) == (0.95, [190, 190])


@given(amount=st.floats(0, 0.99), most=st.floats(0.05, 1), seed=st.integers(0, 9))
def test_law_no_tensor_loses_more_than_its_share_and_the_smallest_go(amount, most, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(size, generator=generator) for size in (1, 7, 40, 300)]
    before = [tensor.clone() for tensor in tensors]
    prune_smallest(tensors, amount, [1.0, 0.01, 5.0, 1.0], most=most)
    limits = [math.floor(most * tensor.numel() + 1e-9) for tensor in tensors]
    gone = [int((tensor == 0).sum()) for tensor in tensors]
    assert all(count <= limit for count, limit in zip(gone, limits, strict=True))
    assert sum(gone) == min(round(amount * 348), sum(limits))
    for tensor, old, count in zip(tensors, before, gone, strict=True):
        assert set(old.abs().argsort()[:count].tolist()) == set((tensor == 0).nonzero().flatten().tolist())
