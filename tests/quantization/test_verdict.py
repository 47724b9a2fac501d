"""What the accuracy ladder decides by: pairs of answers, their interval, and ties broken by the logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from doubles import ArraySplit
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.errors import DataError, StageError
from compress.quantization.verdict import Judge, Limits, Verdict


def split(images, labels):
    return ArraySplit(np.asarray(images, np.float32), np.asarray(labels, np.int64), "validation")


class Flip(nn.Module):
    """Swaps the two logits of images whose second logit is below `limit`."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        return torch.where(x[:, 1:] < self.limit, x.flip(1), x)


def test_answers_are_paired_image_by_image():
    images = [[1, 0], [2, 1], [3, 2], [0, 5], [0, 6]]  # the float model says 0 0 0 1 1
    judge = Judge(nn.Identity(), split(images, [0, 1, 0, 1, 1]), batch_size=2)
    verdict = judge(Flip(1.5))  # flips the first two: one right answer lost, one gained
    assert (verdict.samples, verdict.float_correct, verdict.lost, verdict.gained) == (5, 4, 1, 1)
    assert verdict.agreement == 0.6
    assert verdict.change_points == 0
    assert verdict.within(0)
    assert judge(nn.Identity()).sqnr_db == float("inf")


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


def test_nothing_to_judge_by():
    with pytest.raises(StageError, match=r"validation split is empty.*data.validation="):
        Judge(nn.Identity(), split(np.zeros((0, 2)), []), 4)
    with pytest.raises(DataError, match="label 7, but the model gives 2 classes"):
        Judge(nn.Identity(), split([[1, 0]], [7]), 4)


def test_limits_on_points_and_noise():
    verdict = Verdict(samples=1000, float_correct=900, lost=3, gained=1, agreement=0.99, sqnr_db=30.0)
    assert Limits(0.2).met_by(verdict)
    assert Limits(0.2).excess(verdict) == pytest.approx(0)
    assert not Limits(0.1).met_by(verdict)
    assert Limits(0.1).excess(verdict) == pytest.approx(0.1)
    assert Limits(0.2, sqnr_db=30.0).met_by(verdict)
    assert not Limits(0.2, sqnr_db=30.5).met_by(verdict)
    assert Limits(0.1, sqnr_db=30.5).excess(verdict) == pytest.approx(0.5)
