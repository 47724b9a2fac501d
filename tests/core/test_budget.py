"""The budget of a run: what is typed, when a verdict is within it, and how sure one has to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compress.core.budget import SQNR_FLOOR_DB, Budget, Limits, Verdict, in_points

SURE = Verdict(128, 120, lost=0, gained=0, agreement=1.0, sqnr_db=30.0)


def test_a_budget_of_zero_allows_no_net_loss():
    verdict = Verdict(1000, 900, lost=2, gained=1, agreement=0.99, sqnr_db=30)
    assert not verdict.within(0)
    assert not verdict.within(0.09)
    assert verdict.within(0.1)
    assert replace(verdict, gained=3).within(0)


def test_ties_are_broken_by_the_logits():
    verdict = Verdict(100, 90, lost=1, gained=0, agreement=0.99, sqnr_db=30)
    assert replace(verdict, sqnr_db=31).better_than(verdict)
    assert replace(verdict, gained=1, sqnr_db=10).better_than(verdict)
    assert not verdict.better_than(verdict)


def test_the_interval_of_no_change_is_not_empty():
    low, high = Verdict(128, 120, 0, 0, 1.0, 40).interval_points
    assert low == pytest.approx(-high)
    assert high == pytest.approx(100 * 1.959963984540054 / 130)


@given(st.integers(1, 500), st.data())
def test_law_the_interval_holds_the_change_and_narrows_with_samples(samples, data):
    lost = data.draw(st.integers(0, samples))
    gained = data.draw(st.integers(0, samples - lost))
    verdict = Verdict(samples, lost, lost, gained, 0.5, 10)
    low, high = verdict.interval_points
    assert -100 <= low <= high <= 100
    wider = Verdict(100 * samples, lost, 100 * lost, 100 * gained, 0.5, 10)
    assert wider.interval_points[1] - wider.interval_points[0] <= high - low + 1e-9


def test_limits_on_points_and_noise():
    verdict = Verdict(samples=1000, float_correct=900, lost=3, gained=1, agreement=0.99, sqnr_db=30.0)
    assert Limits(0.2).met_by(verdict)
    assert Limits(0.2).excess(verdict) == pytest.approx(0)
    assert not Limits(0.1).met_by(verdict)
    assert Limits(0.1).excess(verdict) == pytest.approx(0.1)
    assert Limits(0.2, sqnr_db=30.0).met_by(verdict)
    assert not Limits(0.2, sqnr_db=30.5).met_by(verdict)
    assert Limits(0.1, sqnr_db=30.5).excess(verdict) == pytest.approx(0.5)


def test_no_loss_on_few_images_is_no_proof_unless_the_logits_are_close():
    """A network passed "+0.0" on 128 images and lost 1.5 points on the test set."""
    noisy = replace(SURE, lost=3, gained=3, agreement=0.9, sqnr_db=SQNR_FLOOR_DB - 0.1)
    assert not Limits(1.0).met_by(noisy)
    assert "128 images cannot show that no more is lost" in Limits(1.0).shortfall(noisy)
    assert Limits(1.0).met_by(replace(noisy, sqnr_db=SQNR_FLOOR_DB))
    assert not Limits(1.0).met_by(replace(SURE, lost=2, sqnr_db=60.0))


def test_enough_images_prove_it_whatever_the_noise():
    assert Limits(1.0).met_by(Verdict(1000, 900, lost=2, gained=1, agreement=0.9, sqnr_db=12.0))
    assert not Limits(1.0).met_by(Verdict(1000, 900, lost=9, gained=0, agreement=0.9, sqnr_db=12.0))


def test_half_of_the_budget_is_half_of_the_points_and_half_of_the_noise():
    half = Limits(1.0, share=0.5)
    assert half.met_by(replace(SURE, sqnr_db=SQNR_FLOOR_DB + 3.1))
    assert not half.met_by(replace(SURE, sqnr_db=SQNR_FLOOR_DB + 2.9))
    assert not half.met_by(replace(SURE, lost=1, sqnr_db=40.0))
    assert half.shortfall(replace(SURE, lost=1, sqnr_db=40.0)) == "more than 0.5 points are lost"


def test_without_labels_only_the_logits_count():
    unlabelled = Verdict(64, 3, lost=3, gained=0, agreement=0.9, sqnr_db=25.0, labelled=False)
    assert Limits(1.0).met_by(unlabelled)
    assert not Limits(1.0).met_by(replace(unlabelled, sqnr_db=15.0))
    assert in_points(unlabelled) == "SQNR 25.0 dB on 64 images"
    assert not replace(unlabelled, gained=9).better_than(unlabelled)


@given(st.integers(1, 2000), st.data())
def test_law_within_the_limits_is_an_excess_of_at_most_zero(samples, data):
    lost = data.draw(st.integers(0, samples))
    gained = data.draw(st.integers(0, samples - lost))
    verdict = Verdict(samples, lost, lost, gained, 0.5, data.draw(st.floats(-10, 60)))
    limits = Limits(data.draw(st.floats(0, 5)), share=data.draw(st.sampled_from([0.5, 1.0])))
    assert limits.met_by(verdict) == (limits.shortfall(verdict) is None)
    if limits.met_by(verdict):
        assert verdict.within(limits.drop_points * limits.share + 1e-9)
        assert verdict.sqnr_db >= SQNR_FLOOR_DB - 1e-9 or verdict.interval_points[0] >= -limits.drop_points - 1e-9


@pytest.mark.parametrize("typed", ["off", None, False, {"drop": None}])
def test_no_budget(typed):
    assert Budget.model_validate(typed).drop is None


@pytest.mark.parametrize(
    "typed", [{"drop": -1}, {"drop": float("nan")}, {"drop": 101}, {"images": 0}, {"top5": 1}, "on"]
)
def test_impossible_budgets(typed):
    with pytest.raises(ValidationError):
        Budget.model_validate(typed)
