"""The search for the range of least squared error, clipping weighing more, finds what brute force finds."""

from __future__ import annotations

import pytest
import torch

from compress.quantization.grid import Grid
from compress.quantization.observers import load_observer
from compress.quantization.observers.mse import _CLIPPING, Mse

UNSIGNED = Grid(torch.uint8, 0, 255, symmetric=False)
FOUR_BITS = Grid(torch.uint8, 0, 15, symmetric=False)
FOUR_BITS_SYMMETRIC = Grid(torch.int8, -7, 7, symmetric=True)


def feed(*batches, summed=True):
    observer = Mse()
    observer.summed = summed
    for batch in batches:
        observer.observe(batch[None], *torch.aminmax(batch[None], dim=1))
    return observer


def error(grid, values, low, high, clipping=_CLIPPING):
    scale, zero_point = grid.parameters(torch.tensor([low]), torch.tensor([high]))
    first, last = ((end - zero_point) * scale for end in (grid.minimum, grid.maximum))
    weight = torch.where((values < first) | (values > last), clipping, 1.0)
    errors = (grid.round_trip(values.double(), scale.double(), zero_point) - values).square()
    return (weight * errors).mean().item()


@pytest.mark.parametrize("grid", [FOUR_BITS, FOUR_BITS_SYMMETRIC])
def test_search_matches_brute_force_on_a_heavy_tail(grid):
    torch.manual_seed(0)
    values = torch.randn(20_000).abs() ** 2.5
    low, high = (float(end) for end in feed(*values.split(7_000)).range(grid))
    top = float(values.max())
    best = min(
        error(grid, values, -share * top, share * top) if grid.symmetric else error(grid, values, 0.0, share * top)
        for share in torch.linspace(0.05, 1, 100).tolist()
    )
    assert high < 0.8 * top
    assert error(grid, values, low, high) <= 1.02 * best
    whole = error(grid, values, -top if grid.symmetric else 0.0, top)  # nothing is clipped
    assert error(grid, values, low, high, clipping=1.0) < 0.7 * whole


def test_less_is_clipped_than_the_plain_squared_error_asks_for():
    torch.manual_seed(0)
    values = torch.randn(20_000).abs() ** 2.5
    shares = torch.linspace(0.05, 1, 200)
    top = float(values.max())
    plain = float(min(shares, key=lambda share: error(FOUR_BITS, values, 0.0, float(share) * top, clipping=1.0)) * top)
    high = float(feed(values).range(FOUR_BITS)[1])
    assert float(feed(values, summed=False).range(FOUR_BITS)[1]) == pytest.approx(plain, rel=0.02)
    assert plain < 0.9 * high
    assert int((values > high).sum()) < 0.5 * int((values > plain).sum())


def test_both_ends_are_searched():
    torch.manual_seed(0)
    values = torch.cat([torch.randn(50_000), torch.tensor([-20.0, 30.0])])
    low, high = (float(end) for end in feed(values).range(FOUR_BITS))
    assert -10 < low < -1.5
    assert 1.5 < high < 10
    assert error(FOUR_BITS, values, low, high) < 0.2 * error(FOUR_BITS, values, -20.0, 30.0)


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


def test_its_earlier_name_still_works():
    assert load_observer("histogram") is Mse
