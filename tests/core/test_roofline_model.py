"""Two roofs and where they meet."""

from __future__ import annotations

import pytest

from compress.config.schema import load_target
from compress.core.artifact import Precision
from compress.core.roofline import Roofline, published

ROOF = Roofline(flops=100e9, bandwidth=10e9)


def test_each_roof_by_hand():
    assert ROOF.computing(2e9) == pytest.approx(0.02)
    assert ROOF.moving(1e9) == pytest.approx(0.1)


def test_what_is_attainable_rises_to_the_ridge_and_stays():
    assert ROOF.ridge == 10
    assert [ROOF.attainable(intensity) for intensity in (1, 10, 1000)] == [10e9, 100e9, 100e9]


def test_published_limits_are_the_profiles_and_unknown_peaks_are_none():
    nano = load_target("jetson_nano", [])
    assert published(nano, Precision.FP16) == Roofline(472e9, 25.6e9)
    assert published(nano, Precision.INT8) is None
