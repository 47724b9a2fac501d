"""Small pieces: the cubic ramp, the N:M pattern, curves of sensitivity, names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.graph.weights import compute_weights
from compress.pruning.n_m import follows, prune_n_m, why_not
from compress.pruning.names import enclosing, matching
from compress.pruning.scan_report import scan_csv, scan_table
from compress.pruning.schedule import GradualPruning, Ramp
from compress.pruning.sensitivity import Curve, Point, shares_within


@given(
    initial=st.floats(0, 0.5),
    rise=st.floats(0, 0.49),
    steps=st.integers(1, 200),
    updates=st.integers(1, 60),
)
def test_law_the_ramp_rises_and_ends_at_the_final_share(initial, rise, steps, updates):
    ramp = Ramp(initial, initial + rise, steps, updates)
    due = [step for step in range(steps + 50) if ramp.due(step)]
    amounts = [ramp.amount(step) for step in due]
    assert due[-1] == steps
    assert len(due) == min(updates, steps)
    assert amounts == sorted(amounts)
    assert amounts[-1] == pytest.approx(initial + rise)


def test_the_ramp_is_cubic():
    ramp = Ramp(0.0, 0.8, 100, 10)
    assert ramp.amount(50) == pytest.approx(0.8 * (1 - 0.5**3))  # Zhu & Gupta 2017, equation 1
    assert ramp.amount(0) == 0


def test_gradual_pruning_keeps_its_zeros_and_goes_on_after_a_resume():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 10))
    hook = GradualPruning(module, frozenset({"0.weight"}), Ramp(0, 0.5, 8, 8), 4, "global")
    zeros = []
    for epoch in range(3):
        hook.at_epoch(module, epoch)
        for _ in range(4):
            with torch.no_grad():
                module[0].weight += 0.01  # what an optimizer step does
            hook.after_step(module)
            zeros.append(int((module[0].weight == 0).sum()))
    assert zeros == sorted(zeros)
    assert zeros[7:] == [100] * 5
    assert not (module[1].weight == 0).any()
    resumed = GradualPruning(module, frozenset({"0.weight"}), Ramp(0, 0.5, 8, 8), 4, "global")
    resumed.at_epoch(module, 1)
    before = module[0].weight == 0
    with torch.no_grad():
        module[0].weight += 1
    resumed.at_judgement(module)
    assert torch.equal(module[0].weight == 0, before)


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 4),
    blocks=st.integers(1, 5),
    kernel=st.sampled_from([(), (1, 1), (3, 3)]),
    pattern=st.sampled_from([(2, 4), (1, 4), (1, 2), (4, 8)]),
    seed=st.integers(0, 99),
)
def test_law_n_m_keeps_the_largest_of_every_block(outputs, blocks, kernel, pattern, seed):
    n, m = pattern
    weight = torch.randn(outputs, blocks * m, *kernel, generator=torch.Generator().manual_seed(seed))
    pruned = weight.clone()
    prune_n_m(pruned, n, m)
    assert follows(pruned, n, m)
    assert int((pruned != 0).sum()) == weight.numel() * n // m
    kept = pruned != 0
    assert torch.equal(pruned[kept], weight[kept])
    by_hand = weight.movedim(1, -1).reshape(-1, m).abs().topk(n, dim=1).values.sum()
    assert pruned.abs().sum() == pytest.approx(float(by_hand), rel=1e-5)
    again = pruned.clone()
    prune_n_m(again, n, m)
    assert torch.equal(again, pruned)


def test_layers_that_cannot_take_the_pattern_say_why():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.ConvTranspose2d(8, 8, 2), nn.Linear(8, 4)
    )
    reasons = [why_not(weight, module, 4) for weight in compute_weights(module)]
    assert reasons == [
        "its 3 inputs are no multiple of 4",
        "it is a grouped convolution",
        "it is a transposed convolution",
        None,
    ]


def curve(name, size, *losses):
    points = [Point(share, 1 - loss, loss) for share, loss in zip((0.0, 0.3, 0.6, 0.9), (0.0, *losses), strict=True)]
    return Curve(name, size, tuple(points))


def test_damage_is_piecewise_linear_and_never_falls():
    steep = curve("a", 10, 0.3, 0.1, 0.9)
    assert steep.damage(0) == 0
    assert steep.damage(0.15) == pytest.approx(0.15)
    assert steep.damage(0.6) == pytest.approx(0.3)
    assert steep.damage(0.75) == pytest.approx(0.6)
    assert steep.damage(0.95) == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(
    amount=st.floats(0.05, 0.9), sizes=st.lists(st.integers(5, 5000), min_size=1, max_size=6), seed=st.integers(0, 9)
)
def test_law_shares_use_up_the_budget_exactly(amount, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    curves = [curve(f"l{i}", size, *torch.rand(3, generator=generator).tolist()) for i, size in enumerate(sizes)]
    shares = shares_within(curves, amount)
    assert sum(shares[c.name] * c.size for c in curves) == pytest.approx(amount * sum(sizes), rel=1e-6)
    assert all(0 <= share <= 0.9 + 1e-9 for share in shares.values())  # the largest share of the curves


def test_robust_layers_give_more():
    shares = shares_within([curve("robust", 100, 0.0, 0.1, 0.2), curve("frail", 100, 1.0, 2.0, 3.0)], 0.4)
    assert shares["robust"] > 0.75
    assert shares["frail"] < 0.05


def test_the_scan_is_told_in_two_forms():
    curves = [curve("robust", 100, 0.0, 0.01, 0.02), curve("frail<1>", 50, 0.1, 0.2, 0.3)]
    table = scan_table(curves)
    assert table[0].split()[-3:] == ["30%", "60%", "90%"]
    assert table[1].split() == ["frail<1>", "-10.0", "-20.0", "-30.0"]
    assert scan_csv(curves).splitlines()[1] == "robust,100,0,1.000000,0.000000"


def test_names_mean_what_they_enclose():
    assert enclosing("a.b.c") == ["a", "a.b", "a.b.c"]
    assert matching(["a.b.c", "a.d"], ["a.b"]) == {"a.b.c"}
    assert matching(["a.b.c", "a.d"], ["*.d"]) == {"a.d"}
