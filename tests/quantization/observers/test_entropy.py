"""The KL search against the definition written out, bin by bin."""

from __future__ import annotations

import math

import pytest
import torch

from compress.measure.streaming_histogram import StreamingHistogram
from compress.quantization.grid import Grid
from compress.quantization.observers.entropy import Entropy

UNSIGNED = Grid(torch.uint8, 0, 255, symmetric=False)
SYMMETRIC = Grid(torch.int8, -127, 127, symmetric=True)


def ends(grid, *batches):
    observer = Entropy()
    for batch in batches:
        observer.observe(batch[None], *torch.aminmax(batch[None], dim=1))
    return [float(end) for end in observer.range(grid)]


def divergence(values, low, high, grid):
    """KL(P || Q) in plain Python."""
    histogram = StreamingHistogram()
    histogram.add(values, float(values.min()), float(values.max()))
    scale, zero_point = (float(part[0]) for part in grid.parameters(torch.tensor([low]), torch.tensor([high])))
    bins = [(float(c), float(n)) for c, n in zip(*histogram.centres(), strict=True)]
    kept = [(c, n) for c, n in bins if low <= c <= high]
    p = [n for _, n in kept]
    p[0] += sum(n for c, n in bins if c < low)
    p[-1] += sum(n for c, n in bins if c > high)
    cells = {}
    for index, (c, _) in enumerate(kept):
        cells.setdefault(round(c / scale) + zero_point, []).append(index)
    q = [0.0] * len(kept)
    for members in cells.values():
        mean = sum(kept[index][1] for index in members) / len(members)
        for index in members:
            q[index] = mean
    return sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("grid", [UNSIGNED, SYMMETRIC])
def test_search_finds_the_least_divergence(grid):
    torch.manual_seed(0)
    values = torch.rand(60_000) ** -0.35 - 1 + 1e-3  # one-sided, heavy tail, no spike at zero
    low, high = ends(grid, *values.split(9_000))
    top = float(values.max())
    ours = divergence(values, low, high, grid)
    shortest = 256 / 2048  # as finely as the histogram can tell
    tried = [share * top for share in torch.linspace(shortest, 1, 20).tolist()]
    best = min(divergence(values, -end if grid.symmetric else 0.0, end, grid) for end in tried)
    assert high < 0.8 * top
    assert ours <= 1.05 * best
    assert ours < 0.5 * divergence(values, -top if grid.symmetric else 0.0, top, grid)


def test_zeros_after_a_relu_do_not_decide():
    torch.manual_seed(0)
    values = torch.randn(200_000).relu()
    positive = values[values > 0]
    assert ends(UNSIGNED, values)[1] == pytest.approx(ends(UNSIGNED, positive)[1], rel=0.1)


def test_two_sided_data_keeps_both_sides():
    torch.manual_seed(0)
    low, high = ends(UNSIGNED, torch.cat([torch.randn(100_000), torch.tensor([-60.0, 30.0])]))
    assert -60 < low < -2.5
    assert 2.5 < high < 30


def test_constants_zeros_and_few_values():
    assert ends(UNSIGNED, torch.full((10,), 5.0)) == [0, pytest.approx(5, rel=0.02)]
    assert ends(UNSIGNED, torch.zeros(10)) == [0, 0]
    low, high = ends(UNSIGNED, torch.tensor([-1.0, 0.5, 2.0]))
    assert low <= 0 < high <= 2
