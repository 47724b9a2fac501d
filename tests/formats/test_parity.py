"""Fidelity numbers, and what counts as equal."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from doubles import ArraySplit
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compress.core.artifact import Precision
from compress.core.errors import ParityError
from compress.formats.parity import TOLERANCES, FidelityMeter, Tolerance, check_parity, first_images

LOGITS = arrays(np.float32, (6, 4), elements=st.floats(-100, 100, width=32))


class Fixed:
    name = "fixed"

    def __init__(self, logits):
        self.logits = np.asarray(logits, np.float32)

    def __call__(self, images):
        return self.logits[: len(images)]


def check(reference, candidate, tolerance, batches=1):
    images = [np.zeros((len(reference), 1, 1, 1), np.float32)] * batches
    return check_parity(Fixed(reference), Fixed(candidate), images, tolerance, "the file")


def test_numbers():
    meter = FidelityMeter()
    meter.update(np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0, 0.5], [3.0, 2.0]], np.float32))
    fidelity = meter.result()
    assert fidelity.agreement == 0.5
    assert fidelity.max_abs_error == 3.0
    assert fidelity.sqnr_db == pytest.approx(10 * math.log10(5 / 9.25))
    assert (fidelity.samples, meter.relative_error) == (2, 1.5)


@given(LOGITS, LOGITS, st.integers(1, 5))
def test_batches_add_up(reference, candidate, cut):
    whole, parts = FidelityMeter(), FidelityMeter()
    whole.update(reference, candidate)
    for piece in (slice(None, cut), slice(cut, None)):
        parts.update(reference[piece], candidate[piece])
    a, b = whole.result(), parts.result()
    assert (a.agreement, a.max_abs_error, a.samples) == (b.agreement, b.max_abs_error, b.samples)
    assert a.sqnr_db == pytest.approx(b.sqnr_db)


@given(LOGITS)
def test_equal_outputs_are_perfect(logits):
    fidelity = check(logits, logits, Tolerance(relative_error=0.0, sqnr_db=1000.0))
    assert (fidelity.agreement, fidelity.sqnr_db, fidelity.max_abs_error) == (1.0, math.inf, 0.0)


def test_float32_limit_is_relative_to_the_largest_logit():
    check([[1000.0, 0.0]], [[1000.0, 0.9]], TOLERANCES[Precision.FP32])
    with pytest.raises(ParityError, match=r"the file does not .* 1 samples: largest difference is 0\.0011 .* 0\.001 "):
        check([[1000.0, 0.0]], [[1000.0, 1.1]], TOLERANCES[Precision.FP32])


def test_two_int8_forms_are_compared_in_steps():
    """30 dB apart, and yet further than kernels that round alike can be."""
    reference, candidate = [[100.0, 50.0]], [[102.0, 52.0]]
    with pytest.raises(ParityError, match=r"logits are 5\.1 LSB off on average, allowed 2\.0"):
        check(reference, candidate, TOLERANCES[Precision.INT8])
    check(reference, [[100.5, 49.5]], TOLERANCES[Precision.INT8])


def test_int8_limit_is_a_ratio():
    check([[10.0, 0.0]], [[10.0, 1.0]], replace(TOLERANCES[Precision.INT8], mean_lsb=None))
    with pytest.raises(ParityError, match=r"ratio is 14\.0 dB, at least 15 dB wanted \(100% equal top-1\)"):
        check([[10.0, 0.0]], [[10.0, 2.0]], TOLERANCES[Precision.INT8])


def test_vanishing_logits_may_flush_to_zero():
    check([[1e-9, -1e-9]], [[0.0, 0.0]], TOLERANCES[Precision.FP16])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_outputs_fail(bad):
    with pytest.raises(ParityError, match=r"the candidate model's output holds NaN or infinity \(sample 1 of"):
        check([[1.0], [1.0]], [[1.0], [bad]], TOLERANCES[Precision.FP32])
    with pytest.raises(ParityError, match=r"the source model's output"):
        check([[bad]], [[bad]], TOLERANCES[Precision.FP32])


def test_shapes_must_agree():
    with pytest.raises(ParityError, match=r"shapes \(1, 2\) and \(1, 3\)"):
        check([[1.0, 2.0]], [[1.0, 2.0, 3.0]], TOLERANCES[Precision.FP32])


def test_no_samples():
    with pytest.raises(ParityError, match="no samples to compare"):
        check([[1.0]], [[1.0]], TOLERANCES[Precision.FP32], batches=0)


def test_one_runtime_after_the_other():
    """A runtime's idle threads would take the cores from the other."""
    calls = []

    class Noting(Fixed):
        def __call__(self, images):
            calls.append(self.name)
            return super().__call__(images)

    source, exported = Noting([[1.0]]), Noting([[1.0]])
    source.name, exported.name = "source", "exported"
    check_parity(source, exported, iter([np.zeros((1, 1, 1, 1), np.float32)] * 2), Tolerance(), "the file")
    assert calls == ["source", "source", "exported", "exported"]


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_first_images_are_one_alone_and_then_batches(count, wanted):
    split = ArraySplit(np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1))
    batches = list(first_images(split, wanted))
    assert np.concatenate(batches).ravel().tolist() == list(range(min(count, wanted)))
    assert len(batches[0]) == 1
    assert all(0 < len(batch) <= 8 for batch in batches)
    assert len(split.decoded) < wanted + 8  # no batch is read that is not needed
