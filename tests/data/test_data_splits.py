"""Splits never overlap, are seeded, and say what they hold."""

from __future__ import annotations

import numpy as np
import pytest
from doubles import GRAY
from hypothesis import given
from hypothesis import strategies as st

from compress.core.artifact import InputSpec
from compress.core.errors import DataError
from compress.data import DigitsData, load_splits
from compress.data.configs import SplitOptions
from compress.data.digits import held_out, read_digits
from compress.data.preprocess import Preprocess
from compress.data.source import ArraySource
from compress.data.splits import divide, require_classes

PREPROCESS = Preprocess(GRAY)
NAMES = ("calibration", "validation", "finetune", "evaluation")


def source(count: int, origin: str = "made up") -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return ArraySource(("a", "b"), images, np.arange(count, dtype=np.int64) % 2, origin)


def identities(split) -> list[str]:
    return [split.source.identity(index) for index in split.indices]


def assert_disjoint(splits) -> None:
    every = [identity for name in NAMES for identity in identities(getattr(splits, name))]
    assert len(every) == len(set(every))


counts = st.none() | st.integers(0, 40)


@given(
    train=st.integers(1, 60),
    test=st.none() | st.integers(1, 60),
    same=st.booleans(),
    calibration=st.integers(1, 30),
    validation=st.integers(0, 30),
    finetune=counts,
    evaluation=counts,
    seed=st.integers(-(2**40), 2**40),
)
def test_splits_never_share_a_sample(train, test, same, calibration, validation, finetune, evaluation, seed):
    options = SplitOptions(
        calibration=calibration, validation=validation, finetune=finetune, evaluation=evaluation, seed=seed
    )
    other = None if test is None else source(test, "made up" if same else "another")
    try:
        splits = divide(options, PREPROCESS, source(train), other)
    except DataError:
        return
    assert_disjoint(splits)
    assert len(splits.calibration) == calibration
    assert len(splits.validation) == validation
    assert finetune is None or len(splits.finetune) == finetune
    assert evaluation is None or len(splits.evaluation) == evaluation


@given(seed=st.integers(0, 2**32), more=st.integers(0, 50))
def test_digits_evaluation_is_the_same_for_every_seed_and_never_trained_on(seed, more):
    options = SplitOptions(seed=seed, calibration=10 + more)
    splits = divide(options, PREPROCESS, read_digits_once(), held_out=held_out())
    assert set(splits.evaluation.indices) == set(held_out())
    assert len(splits.evaluation) == 360
    assert_disjoint(splits)


def read_digits_once(cache: list[ArraySource] = []) -> ArraySource:  # noqa: B006 - read once for all examples
    if not cache:
        cache.append(read_digits())
    return cache[0]


def test_digits_are_real_handwriting_scaled_to_the_input():
    splits = load_splits(DigitsData(), InputSpec((1, 32, 32), "gray", (0.5,), (0.5,)))
    batch = next(splits.evaluation.batches(64))
    assert batch.images.shape == (64, 1, 32, 32)
    assert batch.images.dtype == np.float32
    assert batch.labels.dtype == np.int64
    assert batch.images.min() == -1.0
    assert batch.images.max() == 1.0
    assert len(splits.classes) == 10
    assert [len(getattr(splits, name)) for name in NAMES] == [128, 128, 1181, 360]


def test_digits_equal_scikit_learn_s_loader():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digits = read_digits()
    np.testing.assert_array_equal(digits.labels, bunch.target)
    np.testing.assert_array_equal(digits.images[..., 0], np.round(bunch.images * 255 / 16))


def test_same_seed_same_splits_another_seed_others():
    first, again, other = (
        divide(SplitOptions(calibration=9, seed=s, validation=0), PREPROCESS, source(50)) for s in (1, 1, 2)
    )
    assert first.describe() == again.describe()
    assert first.calibration.indices != other.calibration.indices


def test_batches_hold_every_sample_once_in_order():
    split = divide(SplitOptions(calibration=10, validation=0, finetune=0), PREPROCESS, source(20)).calibration
    batches = list(split.batches(4))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    whole = next(split.batches(100))
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), whole.images)
    np.testing.assert_array_equal(whole.labels, split.source.labels[list(split.indices)])


def test_batches_in_a_given_order():
    split = divide(SplitOptions(calibration=10, validation=0, finetune=0), PREPROCESS, source(20)).calibration
    picked = next(split.batches(100, order=[3, 3, 0]))
    whole = next(split.batches(100))
    np.testing.assert_array_equal(picked.images, whole.images[[3, 3, 0]])


def test_digest_follows_pixels_labels_and_preprocessing():
    options = SplitOptions(calibration=10, validation=0)
    base = source(30)
    digest = divide(options, PREPROCESS, base).calibration.digest()
    brighter = ArraySource(base.classes, base.images ^ 1, base.labels, base.origin)
    relabelled = ArraySource(base.classes, base.images, 1 - base.labels, base.origin)
    moved = ArraySource(base.classes, base.images, base.labels, "elsewhere")
    normalised = Preprocess(InputSpec((1, 8, 8), "gray", (0.4,), (0.5,)))
    assert divide(options, PREPROCESS, brighter).calibration.digest() != digest
    assert divide(options, PREPROCESS, relabelled).calibration.digest() != digest
    assert divide(options, normalised, base).calibration.digest() != digest
    assert divide(options, PREPROCESS, moved).calibration.digest() == digest


def test_describe_records_counts_seed_and_digests():
    recorded = divide(SplitOptions(calibration=10, validation=5, seed=3), PREPROCESS, source(50)).describe()
    assert recorded["seed"] == 3
    assert recorded["classes"] == 2
    assert [recorded[name]["samples"] for name in NAMES] == [10, 5, 25, 10]
    assert len(recorded["evaluation"]["sha256"]) == 64


def test_evaluation_takes_what_is_left_when_finetuning_has_a_number():
    splits = divide(SplitOptions(calibration=10, validation=5, finetune=0), PREPROCESS, source(50))
    assert [len(getattr(splits, name)) for name in NAMES] == [10, 5, 0, 35]


def test_no_calibration_images():
    with pytest.raises(DataError, match=r"data.calibration=0 leaves no images"):
        divide(SplitOptions(calibration=0), PREPROCESS, source(300))


def test_too_few_samples_say_how_many_exist():
    with pytest.raises(
        DataError, match=r"ask for 256 samples \(calibration 128, validation 128, finetune 0\) but only 80"
    ):
        divide(SplitOptions(), PREPROCESS, source(100))


def test_too_large_evaluation():
    with pytest.raises(DataError, match=r"data.evaluation=11 asks for more samples than the 10 that exist"):
        divide(SplitOptions(calibration=5, validation=0, evaluation=11), PREPROCESS, source(10))


def test_more_classes_than_outputs():
    splits = divide(SplitOptions(calibration=5, validation=0), PREPROCESS, source(10))
    require_classes(splits, 2)
    with pytest.raises(DataError, match="2 classes but the model has 1 outputs"):
        require_classes(splits, 1)


def test_impossible_counts_and_unknown_keys_are_refused():
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        SplitOptions(calibration=-1)
    with pytest.raises(ValueError, match="Extra inputs"):
        SplitOptions(calibraton=1)
