"""One streaming pass: accuracy, its interval, and closeness to reference outputs on disk."""

from __future__ import annotations

import math

import numpy as np
import pytest
from doubles import ArraySplit, Log
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import DataError, StageError
from compress.core.intervals import wilson_interval
from compress.measure.accuracy import evaluate
from compress.measure.reference import RecordedLogits, _write
from compress.measure.unmeasured import NotMeasured


class Scores:
    """Logits are the first pixels of the image."""

    name = "scores 1"

    def __init__(self, shift=0.0):
        self.shift = shift

    def __call__(self, images):
        return images.reshape(len(images), -1)[:, :3] + np.float32(self.shift)


OPTIONS = {"batch_size": 4, "progress": Log()}


def split(count=10):
    images = np.zeros((count, 1, 2, 2), np.float32)
    labels = np.arange(count) % 3
    images.reshape(count, 4)[np.arange(count), labels] = 1
    return ArraySplit(images, labels.astype(np.int64), "evaluation")


def test_counts_right_answers_over_all_batches():
    data = split(10)
    data.labels[:3] = (data.labels[:3] + 1) % 3
    result = evaluate(Scores(), data, None, description="x", **OPTIONS)
    assert (result.accuracy.top1, result.accuracy.samples, result.fidelity) == (0.7, 10, None)
    assert (round(result.accuracy.low, 4), round(result.accuracy.high, 4)) == (0.3968, 0.8922)  # R: binom.wilson(7, 10)


def test_reference_is_written_in_batches_and_compared(tmp_path):
    data, path = split(10), tmp_path / "deep" / "reference.npy"
    _write(Scores(), data, path, 4, Log(), "x")
    reference = RecordedLogits(path).open()
    assert isinstance(reference, np.memmap)
    assert np.array_equal(reference, data.images.reshape(10, -1)[:, :3])
    assert [file.name for file in path.parent.iterdir()] == ["reference.npy"]
    same = evaluate(Scores(), data, reference, description="x", **OPTIONS).fidelity
    assert (same.agreement, same.sqnr_db, same.max_abs_error, same.samples) == (1.0, math.inf, 0.0, 10)
    moved = evaluate(Scores(0.1), data, reference, description="x", **OPTIONS).fidelity
    assert moved.agreement == 1.0
    assert moved.max_abs_error == pytest.approx(0.1)
    assert moved.sqnr_db == pytest.approx(10 * math.log10(10 / (30 * 0.01)), abs=1e-3)


def test_recorded_logits_are_judged_like_the_model_they_came_from(tmp_path):
    data, path = split(10), tmp_path / "recorded.npy"
    _write(Scores(), data, path, 4, Log(), "x")
    recorded = RecordedLogits(path)
    exact = np.zeros((10, 3), np.float32) + 0.5
    replayed = evaluate(recorded.replay("torch"), data, exact, description="x", **OPTIONS)
    assert replayed == evaluate(Scores(), data, exact, description="x", **OPTIONS)


def test_an_existing_reference_is_not_computed_again(tmp_path):
    path = tmp_path / "reference.npy"
    np.save(path, np.zeros((10, 3), np.float32))
    assert RecordedLogits.compute(None, split(), path, None, Log()).path == path


def test_answers_that_are_not_numbers_are_wrong_and_cannot_be_compared():
    data = split(6)
    data.images[0] = np.nan
    data.labels[0] = 0  # numpy's arg-max of NaN is 0
    assert evaluate(Scores(), data, None, description="x", **OPTIONS).accuracy.top1 == 5 / 6
    with pytest.raises(StageError, match="NaN"):
        evaluate(Scores(), data, np.zeros((6, 3), np.float32), description="x", **OPTIONS)


def test_what_does_not_fit_is_an_error():
    with pytest.raises(NotMeasured, match="evaluation split is empty"):
        evaluate(Scores(), split(0), None, description="x", **OPTIONS)
    beyond = split()
    beyond.labels[4] = 7
    with pytest.raises(DataError, match=r"label 7, but the model gives 3 classes \(0 to 2\)"):
        evaluate(Scores(), beyond, None, description="x", **OPTIONS)
    with pytest.raises(StageError, match=r"output of shape \[4, 1, 2, 2\] for 4 images"):
        evaluate(lambda images: images, split(), None, description="x", **OPTIONS)
    with pytest.raises(StageError, match="reference has logits of 9 samples, the evaluation split 10"):
        evaluate(Scores(), split(), np.zeros((9, 3), np.float32), description="x", **OPTIONS)
    with pytest.raises(StageError, match=r"reference has logits of shape \[4, 5\], the model gives \[4, 3\]"):
        evaluate(Scores(), split(), np.zeros((10, 5), np.float32), description="x", **OPTIONS)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_law_wilson_holds_the_share_and_stays_a_share(pair):
    successes, samples = pair
    low, high = wilson_interval(successes, samples)
    assert 0 <= low <= successes / samples <= high <= 1
    mirrored = wilson_interval(samples - successes, samples)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))
