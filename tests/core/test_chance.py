"""Answers that have nothing to do with the labels are told from those that do, however uneven the classes are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from doubles import ArraySplit, Log
from hypothesis import given
from hypothesis import strategies as st

from compress.core.chance import ChanceMeter, at_chance, binomial_tail
from compress.core.intervals import wilson_interval
from compress.core.measurement import Accuracy
from compress.measure.accuracy import evaluate

SAMPLES = 200


def measured(answers: np.ndarray, labels: np.ndarray, classes: int) -> Accuracy:
    """What `evaluate` finds for a model that gives `answers`."""
    images = np.zeros((len(labels), 1, 1, classes), np.float32)
    images[np.arange(len(labels)), 0, 0, answers] = 1

    class Scores:
        name = "scores 1"

        def __call__(self, batch):
            return batch.reshape(len(batch), -1)

    split = ArraySplit(images, labels.astype(np.int64), "evaluation")
    return evaluate(Scores(), split, None, batch_size=7, progress=Log(), description="x").accuracy


def right(share: float, labels: np.ndarray, classes: int) -> np.ndarray:
    """Answers of which `share` are right and the rest are the next class."""
    wrong = np.random.default_rng(1).permutation(len(labels)) >= share * len(labels)
    return (labels + wrong) % classes


def test_shuffled_labels_are_at_chance_and_the_true_ones_are_not():
    labels = np.random.default_rng(0).integers(0, 10, SAMPLES)
    answers = right(0.6, labels, 10)
    assert at_chance(measured(answers, labels, 10)) is None
    shuffled = np.random.default_rng(2).permutation(labels)
    doubt = at_chance(measured(answers, shuffled, 10))
    assert doubt is not None
    assert doubt.samples == SAMPLES
    assert doubt.chance == pytest.approx(0.1, abs=0.02)
    assert doubt.probability > 0.01


def test_one_answer_for_everything_is_at_chance_though_most_are_right():
    labels = (np.arange(SAMPLES) % 10 == 0).astype(int)  # 90 % are of class 0
    doubt = at_chance(measured(np.zeros(SAMPLES, int), labels, 2))
    assert doubt is not None
    assert (doubt.top1, doubt.chance) == (0.9, 0.9)


def test_a_model_of_uneven_classes_that_knows_something_is_not():
    labels = (np.arange(SAMPLES) % 10 == 0).astype(int)
    answers = labels.copy()
    answers[:30:10] = 0  # 3 of the 20 rare ones are missed
    answers[1:40:2] = 1  # and 20 of the others are called rare: 88.5 %, less than one answer for everything
    accuracy = measured(answers, labels, 2)
    assert accuracy.top1 < 0.9
    assert at_chance(accuracy) is None


def test_a_thousand_classes_on_few_images():
    labels = np.arange(16)
    assert at_chance(measured(labels, labels, 1000)) is None
    assert at_chance(measured(right(0.5, labels, 1000), labels, 1000)) is None
    assert at_chance(measured(labels + 500, labels, 1000)) is not None


def test_too_few_images_say_nothing():
    assert at_chance(measured(np.array([0, 1]), np.array([0, 0]), 2)) is None


def test_an_older_report_without_the_figure_says_nothing():
    assert at_chance(Accuracy(0.1, *wilson_interval(20, 200), 200)) is None


def test_a_row_that_is_not_a_number_answers_nothing():
    meter = ChanceMeter()
    meter.update(np.array([[np.nan, 0], [0, 1]], np.float32), np.array([0, 1]))
    assert meter.share == pytest.approx(1 / 4)


@given(samples=st.integers(1, 60), share=st.floats(0.01, 0.99))
def test_the_tail_is_the_binomial_distribution(samples, share):
    exact = [math.comb(samples, k) * share**k * (1 - share) ** (samples - k) for k in range(samples + 1)]
    for successes in (0, 1, samples // 2, samples):
        assert binomial_tail(successes, samples, share) == pytest.approx(min(1, sum(exact[successes:])), rel=1e-9)


def test_the_tail_at_the_ends_and_far_out():
    assert binomial_tail(1, 5, 0.0) == 0.0
    assert binomial_tail(5, 5, 1.0) == 1.0
    assert binomial_tail(50_000, 50_000, 0.001) == 0.0  # underflows, does not fail
