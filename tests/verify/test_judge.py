"""Judging against the source: pairs of answers on validation images, and when labels say nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from doubles import ArraySplit
from torch import nn

from compress.core.artifact import BATCH_BYTES, Artifact, Format, InputSpec, Precision
from compress.core.budget import Budget
from compress.core.errors import DataError
from compress.verify.judge import Judge

SPEC = InputSpec((2, 1, 1), "planes", mean=(0.0, 0.0), std=(1.0, 1.0))


def artifact(module):
    return Artifact(Format.TORCH, nn.Sequential(nn.Flatten(), module), Precision.FP32, SPEC)


def split(images, labels, name="validation"):
    pixels = np.asarray(images, np.float32).reshape(-1, 2, 1, 1)
    return ArraySplit(pixels, np.asarray(labels, np.int64), name)


def judge(pixels, labels, *, calibration=((1, 0),), **budget):
    splits = SimpleNamespace(validation=split(pixels, labels), calibration=split(calibration, [0], "calibration"))
    return Judge(artifact(nn.Identity()), splits, Budget(**budget))


class Flip(nn.Module):
    """Swaps the two logits of images whose second logit is below `limit`."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        return torch.where(x[:, 1:] < self.limit, x.flip(1), x)


IMAGES = [[1, 0], [2, 1], [3, 2], [0, 5], [0, 6]] + [[9, 3], [2, 8]] * 10  # the source says 0 0 0 1 1 and 0 1 ...


def test_answers_are_paired_image_by_image():
    judged = judge(IMAGES, [0, 1, 0, 1, 1] + [0, 1] * 10)
    verdict = judged(artifact(Flip(1.5)))  # flips the first two: one right answer lost, one gained
    assert (verdict.samples, verdict.float_correct, verdict.lost, verdict.gained) == (25, 24, 1, 1)
    assert verdict.agreement == 23 / 25
    assert verdict.change_points == 0
    assert verdict.labelled
    assert judged(artifact(nn.Identity())).sqnr_db == float("inf")


def test_only_so_many_images_are_looked_at():
    judged = judge(IMAGES, [0, 1, 0, 1, 1] + [0, 1] * 10, images=15)
    assert judged(artifact(nn.Identity())).samples == 15
    assert judged(artifact(nn.Identity()), images=4).samples == 4
    assert judged(artifact(nn.Identity()), images=400).samples == 15


def test_one_image_more_than_a_batch():
    images = [[1, 0], [0, 1]] * 32 + [[1, 0]]
    verdict = judge(images, [0, 1] * 32 + [0])(artifact(Flip(-1)))
    assert (verdict.samples, verdict.lost) == (65, 0)


def test_labels_at_chance_judge_nothing():
    judged = judge(IMAGES, [0, 1, 0, 1, 1] + [1, 0] * 10)
    assert "the source is right on 4 of 25 validation images, which is chance among 2 classes" in judged.unjudged
    verdict = judged(artifact(Flip(1.5)))
    assert not verdict.labelled
    assert 0 < verdict.sqnr_db < 30


def test_equal_labels_judge_nothing():
    assert judge(IMAGES, [0] * 25).unjudged == "all 25 validation images have the same label"


def test_without_validation_images_calibration_images_show_the_noise():
    judged = judge(np.zeros((0, 2)), [], calibration=[[1, 0]])
    assert "the validation split is empty (data.validation=" in judged.unjudged
    assert judged(artifact(Flip(1.5))).samples == 1


def test_a_label_beyond_the_outputs():
    with pytest.raises(DataError, match="label 7, but the model gives 2 classes"):
        judge([[1, 0]], [7])(artifact(nn.Identity()))


def test_images_go_through_as_many_at_a_time_as_fit():
    validation = split([[1, 0], [0, 1]] * 8, [0, 1] * 8)
    splits = SimpleNamespace(validation=validation, calibration=split([[1, 0]], [0], "calibration"))
    large = replace(artifact(nn.Identity()), activation_bytes=BATCH_BYTES // 5)
    verdict = Judge(large, splits, Budget())(large)
    assert verdict.samples == 16
    assert max(validation.sizes) == 5


def test_one_answer_for_everything_is_chance_though_most_are_right():
    judged = judge([[1, 0]] * 90, [0] * 81 + [1] * 9)
    assert "the source is right on 81 of 90 validation images, which is chance" in judged.unjudged


def test_few_images_that_are_all_right_are_no_chance():
    assert judge([[1, 0], [0, 1]], [0, 1]).unjudged is None
