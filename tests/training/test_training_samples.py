"""What training reads and how it is judged: samples, shuffling, augmentation, validation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doubles import ArraySplit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.core.errors import DataError, StageError
from compress.core.stage import Batch
from compress.training.augment import Augment, augmented
from compress.training.forward import logits_of, require_scores
from compress.training.samples import Samples
from compress.training.shuffle import Shuffled
from compress.training.validate import Validation, validate


def numbered(count, side=2):
    """Image i is filled with i and labelled i."""
    images = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, side, side), np.float32)
    return ArraySplit(images, np.arange(count, dtype=np.int64))


# samples and shuffling


def test_small_splits_are_decoded_once_and_large_ones_at_every_reading():
    small = numbered(10)
    samples = Samples(small)
    assert samples.cached
    for _ in range(3):
        assert [list(b.labels) for b in samples.batches(4, order=[9, 0, 3, 3, 1])] == [[9, 0, 3, 3], [1]]
    assert small.decoded == [0, *range(10)]  # one to know the size
    large = numbered(10)
    samples = Samples(large, cache_bytes=10 * 4 * 4 - 1)
    assert not samples.cached
    assert [list(b.images[:, 0, 0, 0]) for b in samples.batches(2, order=[9, 0, 3])] == [[9, 0], [3]]
    assert large.decoded == [0, 9, 0, 3]


@settings(max_examples=50)
@given(count=st.integers(0, 40), size=st.integers(1, 12), seed=st.integers(-5, 5), epoch=st.integers(0, 3))
def test_law_an_epoch_has_every_sample_at_most_once_in_full_batches(count, size, seed, epoch):
    shuffled = Shuffled(Samples(numbered(count)), size=size, seed=seed)
    batches = list(shuffled(epoch))
    labels = [int(label) for batch in batches for label in batch.labels]
    assert len(batches) == len(shuffled)
    assert len(set(labels)) == len(labels)
    assert count - len(labels) < size
    assert {len(batch.labels) for batch in batches} <= {min(size, count)}
    assert all(np.array_equal(batch.images[:, 0, 0, 0], batch.labels) for batch in batches)


def test_the_order_follows_from_seed_and_epoch_with_and_without_cache():
    def order(seed, epoch, **options):
        return [
            int(x)
            for batch in Shuffled(Samples(numbered(32), **options), size=8, seed=seed)(epoch)
            for x in batch.labels
        ]

    assert order(1, 2) == order(1, 2) == order(1, 2, cache_bytes=0)
    assert len({tuple(order(seed, epoch)) for seed in (-1, 0, 1) for epoch in (0, 1)}) == 6


# augmentation


def test_every_image_is_mirrored_and_moved_by_itself():
    image = np.arange(1, 26, dtype=np.float32).reshape(1, 1, 5, 5)
    batch = Batch(np.repeat(image, 200, axis=0), np.arange(200, dtype=np.int64))
    (changed,) = augmented([batch], Augment(flip=True, shift=1), np.random.default_rng(0))
    allowed = {}
    padded = np.pad(image[0, 0], 1)
    for top in range(3):
        for left in range(3):
            window = padded[top : top + 5, left : left + 5]
            allowed[window.tobytes()] = allowed[window[:, ::-1].tobytes()] = (top, left)
    counts = [allowed[picture[0].tobytes()] for picture in changed.images]
    assert len(set(counts)) == 9
    assert np.array_equal(batch.images, np.repeat(image, 200, axis=0))
    assert np.array_equal(changed.labels, batch.labels)
    assert changed.images.dtype == np.float32


def test_reflected_edges_bring_in_no_new_value_and_no_option_changes_nothing():
    batch = Batch(np.random.default_rng(0).random((9, 3, 6, 6), dtype=np.float32) + 1, np.zeros(9, np.int64))
    (moved,) = augmented([batch], Augment(shift=3, padding="reflect"), np.random.default_rng(1))
    assert moved.images.min() >= 1
    (same,) = augmented([batch], Augment(), np.random.default_rng(1))
    assert same.images is batch.images


def test_blended_images_are_mostly_themselves_and_keep_their_labels():
    images = np.stack([np.full((1, 4, 4), value, np.float32) for value in range(8)])
    batch = Batch(images, np.arange(8, dtype=np.int64))
    (mixed,) = augmented([batch], Augment(blend=0.4), np.random.default_rng(0))
    assert mixed.images.dtype == np.float32
    assert np.array_equal(mixed.labels, batch.labels)
    assert not np.array_equal(mixed.images, images)
    assert np.abs(mixed.images - images).max() <= 0.4 * 7
    assert mixed.images.min() >= 0
    assert mixed.images.max() <= 7
    with pytest.raises(ValueError, match=r"blend=0.5 must be from 0 to below 0.5"):
        Augment(blend=0.5)


# validation


def test_validation_counts_and_leaves_inference_mode():
    class Score(nn.Module):
        def forward(self, images):
            return F.one_hot(images[:, 0, 0, 0].long() % 3, 3).float()

    split = numbered(6)
    split.labels[:] = [0, 1, 2, 0, 1, 0]
    module = Score()
    result = validate(module, split.batches(4))
    assert (result.top1, result.samples, module.training) == (5 / 6, 6, False)
    right, wrong = math.log(math.e + 2) - 1, math.log(math.e + 2)
    assert result.loss == pytest.approx((5 * right + wrong) / 6, rel=1e-6)
    with pytest.raises(DataError, match="no sample to validate on"):
        validate(module, [])


def test_equal_counts_are_decided_by_the_loss_and_nan_never_wins():
    assert Validation(0.9, 0.2, 10).better_than(Validation(0.9, 0.3, 10))
    assert not Validation(0.9, 0.2, 10).better_than(Validation(0.9, 0.2, 10))
    assert not Validation(0.9, math.nan, 10).better_than(Validation(0.9, 0.3, 10))
    assert Validation(0.9, 0.3, 10).better_than(Validation(0.9, math.nan, 10))


def test_outputs_that_are_no_scores_and_labels_beyond_them_are_named():
    with pytest.raises(StageError, match=r"the model gives shape \[2, 1, 3, 3\] for 2 images"):
        logits_of(nn.Identity(), torch.zeros(2, 1, 3, 3))
    with pytest.raises(DataError, match=r"label 3, but the model gives 3 classes \(0 to 2\)"):
        require_scores(torch.zeros(2, 3), np.array([0, 3]))
