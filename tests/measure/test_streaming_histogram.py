"""The streaming histogram: independent of batching, nothing lost, bounded."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.measure.streaming_histogram import StreamingHistogram


def feed(*batches):
    histogram = StreamingHistogram()
    for batch in batches:
        histogram.add(batch, float(batch.min()), float(batch.max()))
    return histogram


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**14), 2**14), min_size=2, max_size=60), st.randoms(), st.integers(1, 59))
def test_batches_and_their_order_make_no_difference(numbers, random, cut):
    values = torch.tensor(numbers, dtype=torch.float32) / 64
    shuffled = list(numbers)
    random.shuffle(shuffled)
    parts = torch.tensor(shuffled, dtype=torch.float32) / 64
    cut = min(cut, len(numbers) - 1)
    once, streamed = feed(values), feed(parts[:cut], parts[cut:])
    assert once.width == streamed.width
    for ours, theirs in zip(once.occupied(), streamed.occupied(), strict=True):
        assert torch.equal(ours, theirs)
    assert once.occupied()[1].sum() == len(numbers)


def test_nothing_is_lost_while_the_range_grows():
    histogram = feed(*(torch.randn(1000) * 10.0**power for power in range(-6, 7)))
    bins, counts = histogram.occupied()
    assert counts.sum() == 13_000
    assert bins.max() - bins.min() < 4096


def test_bins_hold_the_values_they_say():
    values = torch.tensor([-1.0, 0.0, 0.0, 3.0])
    histogram = feed(values)
    bins, counts = histogram.occupied()
    assert torch.equal(bins * histogram.width, torch.tensor([-1.0, 0.0, 3.0]))
    assert counts.tolist() == [1, 2, 1]
    centres, _ = histogram.centres()
    assert centres[-1] == 3.0  # not the middle of its bin, which is beyond everything seen


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=200))
def test_every_value_is_counted_in_the_bin_that_holds_it(numbers):
    values = torch.tensor(numbers, dtype=torch.float32)
    histogram = feed(values)
    bins, counts = histogram.occupied()
    expected, numbers_in = torch.unique((values.double() / histogram.width).floor(), return_counts=True)
    assert torch.equal(bins, expected.long())
    assert torch.equal(counts, numbers_in.double())


def test_a_large_batch_is_sampled_but_its_extremes_are_kept():
    values = torch.rand(3_000_000)
    values[1_234_567] = 1.5
    histogram = feed(values)
    assert histogram.occupied()[1].sum() < 2**19 + 1
    assert histogram.high == 1.5
