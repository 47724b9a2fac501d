"""Numbers as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.report import text


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (text.bytes_text, (812,), "812 B"),
        (text.bytes_text, (311_398,), "304.1 KiB"),
        (text.bytes_text, (1_030_000,), "0.98 MiB"),
        (text.bytes_text, (None,), "–"),
        (text.count_text, (980,), "980"),
        (text.count_text, (40_813_184,), "40.8 M"),
        (text.count_text, (1_814_073_344,), "1.814 G"),
        (text.percent_text, (0.928,), "92.8"),
        (text.percent_text, (0.99999,), ">99.9"),
        (text.percent_text, (0.00001,), "<0.1"),
        (text.percent_text, (1.0,), "100.0"),
        (text.ms_text, (0.01234,), "0.012"),
        (text.ms_text, (0.4567,), "0.46"),
        (text.ms_text, (1.234,), "1.23"),
        (text.ms_text, (156.3,), "156"),
        (text.ms_text, (0.0,), "0.00"),
        (text.decibel_text, (29.61,), "29.6 dB"),
        (text.decibel_text, (math.inf,), "exact"),
        (text.decibel_text, (-3.0,), "−3.0 dB"),
        (text.decibel_text, (math.nan,), "NaN"),
        (text.seconds_text, (0.44,), "0.4 s"),
        (text.seconds_text, (59.6,), "1 min 00 s"),
        (text.seconds_text, (185,), "3 min 05 s"),
        (text.change_text, (26, 100), "−74.0 %"),
        (text.change_text, (100, 100), "same"),
        (text.change_text, (1, 0), "–"),
        (text.points_text, (0.924, 0.928), "−0.4"),
        (text.points_text, (0.93, None), "–"),
        (text.speed_text, (1.0, 2.1), "2.1x faster"),
        (text.speed_text, (1.3, 1.0), "1.3x slower"),
        (text.speed_text, (1.08, 1.0), "8 % slower"),
        (text.speed_text, (1.01, 1.0), "same"),
    ],
)
def test_as_people_read_them(function, arguments, expected):
    assert function(*arguments) == expected


@given(st.floats(0, 1))
def test_law_a_share_prints_as_whole_only_when_it_is(fraction):
    assert (text.percent_text(fraction) == "100.0") == (fraction == 1)
    assert (text.percent_text(fraction) == "0.0") == (fraction == 0)


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_law_faster_one_way_is_slower_the_other_way(one, other):
    forward, backward = text.speed_text(one, other), text.speed_text(other, one)
    assert forward.replace("faster", "slower") == backward.replace("faster", "slower")
    assert (forward == "same") or (forward != backward)
