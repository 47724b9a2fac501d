"""Percentile ranges against exact quantiles."""

from __future__ import annotations

import pytest
import torch

from compress.quantization.grid import Grid
from compress.quantization.observers import load_observer
from compress.quantization.observers.percentile import Percentile

GRID = Grid(torch.uint8, 0, 255, symmetric=False)


def ends(*batches):
    observer = Percentile()
    for batch in batches:
        observer.observe(batch[None], *torch.aminmax(batch[None], dim=1))
    return [float(end) for end in observer.range(GRID)]


def test_both_tails_match_the_quantiles():
    torch.manual_seed(0)
    values = torch.randn(400_000) * 3 + 1
    low, high = ends(*values.split(90_000))
    exact = values.double().sort().values
    assert low == pytest.approx(float(exact[40]), abs=0.05)
    assert high == pytest.approx(float(exact[-41]), abs=0.05)


def test_an_outlier_is_clipped_whatever_its_size():
    values = torch.linspace(0, 1, 100_000)
    assert ends(torch.cat([values, torch.tensor([50.0])]))[1] == pytest.approx(1, abs=0.02)


def test_zeros_after_a_relu_stay_the_lower_end():
    torch.manual_seed(0)
    low, high = ends(torch.randn(100_000).relu())
    assert low == pytest.approx(0, abs=2e-3)
    assert 3 < high < 4.2


def test_few_values_are_kept_whole():
    low, high = ends(torch.tensor([-1.0, 0.5, 2.0]))
    assert low == pytest.approx(-1, abs=2e-3)
    assert high == pytest.approx(2, abs=2e-3)
    assert ends(torch.full((7,), 5.0)) == [5, 5]
    assert ends(torch.zeros(4)) == [0, 0]


def test_found_by_name():
    assert load_observer("percentile") is Percentile
