"""The histogram observer: independent of batching, and a search that finds what brute force finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.quantization.grid import Grid
from compress.quantization.observers.histogram import Histogram
from compress.quantization.streaming_histogram import StreamingHistogram

UNSIGNED = Grid(torch.uint8, 0, 255, symmetric=False)
SYMMETRIC = Grid(torch.int8, -127, 127, symmetric=True)


def feed(*batches):
    observer = Histogram()
    for batch in batches:
        observer.observe(batch[None], *torch.aminmax(batch[None], dim=1))
    return observer


def count(*batches):
    histogram = StreamingHistogram()
    for batch in batches:
        histogram.add(batch, float(batch.min()), float(batch.max()))
    return histogram


def error(grid, values, low, high):
    scale, zero_point = grid.parameters(torch.tensor([low]), torch.tensor([high]))
    return (grid.round_trip(values.double(), scale.double(), zero_point) - values).square().mean().item()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**14), 2**14), min_size=2, max_size=60), st.randoms(), st.integers(1, 59))
def test_batches_and_their_order_make_no_difference(numbers, random, cut):
    values = torch.tensor(numbers, dtype=torch.float32) / 64
    shuffled = list(numbers)
    random.shuffle(shuffled)
    parts = torch.tensor(shuffled, dtype=torch.float32) / 64
    cut = min(cut, len(numbers) - 1)
    once, streamed = count(values), count(parts[:cut], parts[cut:])
    assert once.width == streamed.width
    for one, other in zip(once.occupied(), streamed.occupied(), strict=True):
        assert torch.equal(one, other)
    assert once.occupied()[1].sum() == len(numbers)


def test_nothing_is_lost_while_the_range_grows():
    bins, counts = count(*(torch.randn(1000) * 10.0**power for power in range(-6, 7))).occupied()
    assert counts.sum() == 13_000
    assert bins.max() - bins.min() < 4096


@pytest.mark.parametrize("grid", [UNSIGNED, SYMMETRIC])
def test_search_matches_brute_force_on_a_heavy_tail(grid):
    values = torch.from_numpy(np.random.default_rng(0).exponential(size=20_000)).float()
    low, high = (float(end) for end in feed(*values.split(7_000)).range(grid))
    top = float(values.max())
    ranges = [(-end if grid.symmetric else 0.0, end) for end in torch.linspace(0.3 * top, top, 100).tolist()]
    assert error(grid, values, low, high) <= 1.02 * min(error(grid, values, *ends) for ends in ranges)
    assert error(grid, values, low, high) < error(grid, values, *ranges[-1])


def test_a_uniform_range_is_not_clipped():
    values = torch.linspace(-1, 3, 100_001)
    low, high = (float(end) for end in feed(values).range(UNSIGNED))
    assert low == pytest.approx(-1, abs=0.02)
    assert high == pytest.approx(3, abs=0.03)


def test_constants_and_zeros():
    low, high = feed(torch.full((10,), 5.0)).range(UNSIGNED)
    scale, zero_point = UNSIGNED.parameters(low, high)
    assert UNSIGNED.round_trip(torch.tensor([5.0]), scale, zero_point).item() == pytest.approx(5, rel=1e-3)
    assert [float(end) for end in feed(torch.zeros(10), torch.zeros(3)).range(UNSIGNED)] == [0, 0]


def test_a_large_batch_is_sampled_but_its_extremes_are_kept():
    values = torch.rand(3_000_000)
    values[1_234_567] = 1.5
    histogram = count(values)
    assert histogram.occupied()[1].sum() <= 2**19
    assert histogram.high == 1.5
