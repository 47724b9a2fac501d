"""Allocation: the budget is met, in whole multiples, where it does the least damage."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import StageError
from compress.pruning.allocate import allocate, candidates, even, relative_importance
from compress.pruning.budget import Budget
from compress.pruning.cost import macs, total
from compress.pruning.shapes import Cut, LayerShape


@dataclass
class Group:
    name: str
    units: int
    width: int = 1
    cuts: dict = field(default_factory=dict)


def chain(widths, positions=64):
    """Convolutions 3 -> w0 -> w1 -> ... -> 10 and a group for each inner width."""
    sizes = [3, *widths, 10]
    shapes = {
        f"conv{i}": LayerShape(f"conv{i}", a, b, kernel=9, read=positions, written=positions)
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    }
    groups = [
        Group(f"conv{i}", w, cuts={f"conv{i}": Cut(outputs=1), f"conv{i + 1}": Cut(inputs=1)})
        for i, w in enumerate(widths)
    ]
    return groups, shapes


def plan(groups, shapes, keep, *, damage=even, power=0.0, multiple=8, most=0.9, importance=None):
    scores = importance or {group.name: torch.arange(group.units, dtype=torch.float32) + 1 for group in groups}
    before = total(macs, shapes.values())
    budget = Budget(macs, keep * before, before, "MACs", estimated=False)
    found = candidates(groups, scores, multiple=multiple, max_removed=most)
    return allocate(found, shapes, budget, damage, cost_power=power, stage="structured"), before


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(2, 12).map(lambda n: 8 * n), min_size=3, max_size=6),
    keep=st.floats(0.3, 0.9),
    damage=st.sampled_from([even, relative_importance]),
    power=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_law_the_cost_is_what_the_plan_says_and_near_the_budget(widths, keep, damage, power):
    groups, shapes = chain(widths)
    try:
        found, before = plan(groups, shapes, keep, damage=damage, power=power, multiple=1)
    except StageError:
        return
    after = dict(shapes)
    for group in groups:
        for name, cut in group.cuts.items():
            after[name] = cut.times(len(found.removed.get(group.name, ()))).applied(after[name])
    assert total(macs, after.values()) == pytest.approx(found.after)
    assert found.after <= 1.021 * keep * before
    assert all(len(units) < group.units for group in groups for units in [found.removed.get(group.name, ())])


@settings(max_examples=40, deadline=None)
@given(widths=st.lists(st.integers(9, 100), min_size=2, max_size=5), multiple=st.sampled_from([4, 8, 16]))
def test_law_channels_are_left_in_multiples(widths, multiple):
    groups, shapes = chain(widths)
    try:
        found, _ = plan(groups, shapes, 0.6, multiple=multiple)
    except StageError:
        return
    for group in groups:
        if found.removed.get(group.name):
            assert (group.units - len(found.removed[group.name])) % multiple == 0


def test_uniform_keeps_the_same_share_everywhere_and_takes_the_least_important():
    groups, shapes = chain([64, 64, 64])
    found, before = plan(groups, shapes, 0.5, multiple=1)
    kept = [1 - len(found.removed[group.name]) / 64 for group in groups]
    assert max(kept) - min(kept) <= 1 / 64 + 1e-9
    assert found.after / before == pytest.approx(0.5, abs=0.02)
    assert found.removed["conv0"] == tuple(range(len(found.removed["conv0"])))


def test_importance_decides_where():
    groups, shapes = chain([64, 64])
    importance = {"conv0": torch.cat([torch.full((32,), 1e-3), torch.ones(32)]), "conv1": torch.ones(64)}
    found, _ = plan(groups, shapes, 0.5, damage=relative_importance, multiple=1, importance=importance)
    assert len(found.removed["conv0"]) >= 32
    assert set(range(32)) <= set(found.removed["conv0"])


def test_tied_units_count_all_their_channels():
    group = Group("conv0", 16, width=4, cuts={"conv0": Cut(outputs=4)})
    (found,) = candidates([group], {"conv0": torch.ones(16)}, multiple=8, max_removed=0.9)
    assert found.steps == (2, 4, 6, 8, 10, 12, 14)


def test_a_budget_that_cannot_be_met_says_what_can():
    groups, shapes = chain([16, 16])
    with pytest.raises(StageError, match=r"5% of the MACs cannot be reached: at least \d+% stay, .*fix: .*keep=0\."):
        plan(groups, shapes, 0.05)


def test_no_layer_is_ever_emptied():
    groups, _ = chain([8, 64])
    (only,) = candidates(groups, {g.name: torch.ones(g.units) for g in groups}, multiple=8, max_removed=0.999)
    assert only.group.name == "conv1"
    assert only.steps[-1] == 56
