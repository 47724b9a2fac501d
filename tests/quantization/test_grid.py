"""The integer grid: laws that must hold for every range."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.quantization.grid import SMALLEST_SCALE, Grid, activation_grid, weight_grid
from compress.quantization.policy import load_policy

UNSIGNED = Grid(torch.uint8, 0, 255, symmetric=False)
SIGNED = Grid(torch.int8, -128, 127, symmetric=False)
SYMMETRIC = Grid(torch.int8, -127, 127, symmetric=True)
ends = st.floats(-1e6, 1e6, width=32)


@given(ends, ends)
def test_zero_is_exact_and_the_range_is_covered(a, b):
    low, high = min(a, b), max(a, b)
    for grid in (UNSIGNED, SIGNED, SYMMETRIC):
        scale, zero_point = grid.parameters(torch.tensor([low]), torch.tensor([high]))
        assert scale.dtype == torch.float32
        assert scale.item() >= SMALLEST_SCALE
        assert grid.minimum <= zero_point.item() <= grid.maximum
        values = torch.tensor([0.0, low, high], dtype=torch.float64)
        rounded = grid.round_trip(values, scale.double(), zero_point)
        assert rounded[0] == 0
        assert (rounded - values).abs().max() <= scale.item() * 0.5001 + 1e-12


@given(ends, ends)
def test_unsigned_and_signed_affine_grids_are_the_same_real_numbers(a, b):
    low, high = torch.tensor([min(a, b)]), torch.tensor([max(a, b)])
    unsigned, signed = UNSIGNED.parameters(low, high), SIGNED.parameters(low, high)
    assert torch.equal(unsigned[0], signed[0])
    assert torch.equal(unsigned[1], signed[1] + 128)


def test_an_empty_range_gets_a_usable_scale():
    zero = torch.zeros(1)
    assert UNSIGNED.parameters(zero, zero)[0].item() == torch.tensor(1 / 255).item()
    assert SYMMETRIC.parameters(zero, zero)[0].item() == torch.tensor(1 / 127).item()


def test_a_constant_that_is_not_zero_is_represented():
    scale, zero_point = UNSIGNED.parameters(torch.tensor([3.0]), torch.tensor([3.0]))
    assert UNSIGNED.round_trip(torch.tensor([3.0]), scale, zero_point).item() == 3.0


def test_reduce_range_cannot_saturate_the_sum_of_two_products_in_int16():
    grid = weight_grid(load_policy("onnxruntime").weight, reduce_range=True)
    assert 2 * 255 * grid.maximum <= 2**15 - 1
    assert (grid.minimum, grid.maximum) == (-64, 64)
    assert activation_grid(load_policy("onnxruntime").activation) == UNSIGNED
