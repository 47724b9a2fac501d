"""Suppression leaves no two boxes of a class that overlap, and only those that another one stands for go."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.tasks.detection.candidates import Candidates
from compress.tasks.detection.nms import suppress
from compress.tasks.matching import box_iou


def crowd(seed: int, count: int) -> Candidates:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (count, 2))
    corners = np.concatenate([low, low + rng.uniform(5, 40, (count, 2))], axis=1).astype(np.float32)
    return Candidates(corners, rng.random(count).astype(np.float32), rng.integers(0, 3, count))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.floats(0.1, 0.9))
def test_no_pair_of_a_class_is_above_the_overlap_and_every_box_that_went_is_covered(seed, count, iou):
    before = crowd(seed, count)
    after = suppress(before, iou, 1000)
    overlaps = box_iou(after.corners, after.corners) - np.eye(len(after))
    same = after.labels[:, None] == after.labels[None]
    assert not (same & (overlaps > iou)).any()
    assert (np.diff(after.scores) <= 0).all()
    kept = {tuple(row) for row in after.corners}
    for corners, score, label in zip(before.corners, before.scores, before.labels, strict=True):
        if tuple(corners) not in kept:
            rivals = (after.labels == label) & (after.scores >= score)
            assert box_iou(corners[None], after.corners[rivals]).max() > iou


def test_the_limit_keeps_the_surest():
    before = crowd(0, 40)
    np.testing.assert_array_equal(suppress(before, 0.5, 5).scores, suppress(before, 0.5, 1000).scores[:5])


def test_a_broken_network_that_is_sure_of_everything_takes_no_minutes():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 400, (100_000, 2))
    corners = np.concatenate([low, low + 10], axis=1).astype(np.float32)
    everything = Candidates(corners, rng.random(100_000).astype(np.float32), rng.integers(0, 80, 100_000))
    start = time.process_time()
    after = suppress(everything, 0.65, 300)
    assert time.process_time() - start < 2  # 0.1 s; class by class to the end it takes a minute
    np.testing.assert_allclose(after.scores, np.sort(everything.scores)[::-1][:300], atol=1e-3)


def test_boxes_of_different_classes_do_not_suppress_each_other():
    corners = np.tile(np.float32([0, 0, 10, 10]), (2, 1))
    both = Candidates(corners, np.float32([0.9, 0.8]), np.array([0, 1]))
    assert len(suppress(both, 0.5, 10)) == 2
