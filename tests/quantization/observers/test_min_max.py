"""Min-max, and how an observer is found."""

from __future__ import annotations

import pytest
import torch

from compress.core.errors import ConfigError
from compress.quantization.grid import Grid
from compress.quantization.observers import load_observer, observer_names
from compress.quantization.observers.min_max import MinMax

GRID = Grid(torch.int8, -127, 127, symmetric=True)


def test_range_per_channel_over_batches():
    observer = MinMax()
    for batch in (torch.tensor([[1.0, -2.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [-1.0, 5.0]])):
        observer.observe(batch, *torch.aminmax(batch, dim=1))
    low, high = observer.range(GRID)
    assert low.tolist() == [-2.0, -1.0]
    assert high.tolist() == [3.0, 5.0]


def test_observers_are_found_by_file():
    assert {"min_max", "histogram"} <= set(observer_names())
    assert load_observer("min_max") is MinMax
    with pytest.raises(ConfigError, match=r"unknown observer 'minmax'.*did you mean 'min_max'"):
        load_observer("minmax")
