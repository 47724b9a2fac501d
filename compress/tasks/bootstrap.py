"""Intervals of any metric, and of the paired change between two models, by resampling per-sample statistics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import StageError
from compress.core.intervals import paired_interval, wilson_interval
from compress.tasks.base import Evaluator, Score

__all__ = ["RESAMPLES", "change", "score"]

RESAMPLES = 1000
"""Enough for a 95 % percentile interval: its ends move by a few percent of its width (Efron & Tibshirani 1993, 14)."""

_BLOCK = 1 << 20
"""Counts held at a time: 8 MB, whatever the number of samples."""


def score(evaluator: Evaluator, metric: str, *, seed: int = 0, resamples: int = RESAMPLES) -> Score | None:
    """The metric over all samples and its 95 % interval; None where it is undefined.

    A share of right samples gets Wilson's interval, anything else the percentile bootstrap over samples (Efron 1979).
    """
    value = evaluator.value(metric)
    if np.isnan(value):
        return None
    bits = evaluator.successes(metric)
    if bits is not None:
        return Score(value, *wilson_interval(int(bits.sum()), len(bits)), len(bits))
    values = [evaluator.weighted(metric, counts) for counts in _resamples(evaluator.samples, resamples, seed)]
    return _interval(value, np.concatenate(values), evaluator.samples)


def change(
    before: Evaluator, after: Evaluator, metric: str, *, seed: int = 0, resamples: int = RESAMPLES
) -> Score | None:
    """Change, `after - before`, on the same samples and its 95 % interval; None where either is undefined.

    Paired: both are scored on the same resamples, so what is hard for both cancels. For a share of right samples the
    interval is that of paired proportions (Agresti & Min 2005), which stays honest where no answer changed.

    Raises:
        StageError: the two have not seen equally many samples.
    """
    if before.samples != after.samples:
        raise StageError(f"a paired change needs the same samples, got {before.samples} and {after.samples}")
    difference = after.value(metric) - before.value(metric)
    if np.isnan(difference):
        return None
    was_right, is_right = before.successes(metric), after.successes(metric)
    if was_right is not None and is_right is not None:
        lost, gained = int((was_right & ~is_right).sum()), int((is_right & ~was_right).sum())
        return Score(difference, *paired_interval(lost, gained, len(is_right)), len(is_right))
    values = [
        after.weighted(metric, counts) - before.weighted(metric, counts)
        for counts in _resamples(before.samples, resamples, seed)
    ]
    return _interval(difference, np.concatenate(values), before.samples)


def _resamples(samples: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draw `samples` samples with replacement; yield how often each is drawn, `[r, samples]` at a time."""
    generator = np.random.default_rng(seed)
    shares = np.full(samples, 1 / samples)
    rows = max(1, _BLOCK // samples)
    for start in range(0, resamples, rows):
        yield generator.multinomial(samples, shares, size=min(rows, resamples - start)).astype(np.int64)


def _interval(value: float, resampled: NDArray[np.float64], samples: int) -> Score:
    """The percentiles of the resamples, and the value itself: resamples repeat samples, which may lift all of them."""
    defined = resampled[~np.isnan(resampled)]
    if samples < 2 or not len(defined):
        return Score(value, None, None, samples)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Score(value, min(float(low), value), max(float(high), value), samples)
