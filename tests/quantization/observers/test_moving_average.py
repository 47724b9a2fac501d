"""The moving average of ranges."""

from __future__ import annotations

import pytest
import torch

from compress.quantization.grid import Grid
from compress.quantization.observers.moving_average import MovingAverage

GRID = Grid(torch.int8, -127, 127, symmetric=True)


def ends(*batches):
    observer = MovingAverage()
    for batch in batches:
        observer.observe(batch, *torch.aminmax(batch, dim=1))
    return [end.tolist() for end in observer.range(GRID)]


def test_one_batch_is_its_own_range():
    assert ends(torch.tensor([[-2.0, 3.0]])) == [[-2], [3]]


def test_the_newest_batch_weighs_most():
    low, high = ends(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]]))
    assert low == [0]
    assert high == pytest.approx([(0.99 * 1 + 2) / 1.99])


def test_a_single_outlier_counts_by_its_batches():
    batches = [torch.tensor([[-1.0, 1.0]])] * 99
    _, high = ends(*batches[:50], torch.tensor([[0.0, 100.0]]), *batches[50:])
    assert 1 < high[0] < 3


def test_per_channel():
    low, high = ends(torch.tensor([[1.0, -2.0], [0.0, 5.0]]))
    assert (low, high) == ([-2, 0], [1, 5])
