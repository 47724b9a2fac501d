"""Energy of one image: which meter, which interval, and when there is none."""

from __future__ import annotations

import math

import pytest

from compress.results.device import DeviceLatency, DeviceRow, GoldenCheck
from compress.results.energy import Energy, energy

LATENCY = DeviceLatency(10.0, 9.8, 10.2, 11.0, 12.0, 9.5, 300, 20, True, 100.0)


def row(watts, *, batch=1, deviation=None, readings=None, latency=LATENCY):
    return DeviceRow(
        *("net", "int8", 4, batch, None, "tensorrt"),
        golden=GoldenCheck(True),
        latency=latency,
        mean_watts=watts,
        watts_deviation=deviation,
        watts_readings=readings,
    )


def test_it_is_power_times_time_over_the_batch():
    assert energy(row({"VDD_IN": 5.0})) == Energy("VDD_IN", pytest.approx(50.0), None)
    assert energy(row({"VDD_IN": 5.0}, batch=4)).mj == pytest.approx(12.5)


@pytest.mark.parametrize(
    ("watts", "rail"),
    [
        ({"VDD_CPU_GPU_CV": 3.0, "VDD_IN": 2.9, "VDD_SOC": 1.0}, "VDD_IN"),
        ({"POM_5V_CPU": 0.5, "POM_5V_GPU": 2.0, "POM_5V_IN": 5.0}, "POM_5V_IN"),
        ({"VDD_CPU_CV": 1.0, "VDD_GPU_SOC": 4.0}, "VDD_GPU_SOC"),
        ({"VDD_IN": None, "VDD_SOC": 1.0}, "VDD_SOC"),
    ],
)
def test_the_meter_of_the_whole_board_goes_before_its_parts(watts, rail):
    assert energy(row(watts)).rail == rail


def test_the_interval_has_the_spread_of_power_and_of_time():
    """t(0.975, 3) = 3.182; 4 readings of 5 W with a deviation of 0.2 W, and a median within 2 %."""
    spent = energy(row({"VDD_IN": 5.0}, deviation={"VDD_IN": 0.2}, readings={"VDD_IN": 4}))
    half = 50.0 * math.hypot(3.182 * 0.2 / 2 / 5.0, 0.02)
    assert spent.readings == 4
    assert (spent.low_mj, spent.high_mj) == (pytest.approx(50 - half, rel=1e-3), pytest.approx(50 + half, rel=1e-3))


@pytest.mark.parametrize("readings", [None, {"VDD_IN": 1}, {"VDD_IN": 0}])
def test_one_reading_has_no_interval(readings):
    spent = energy(row({"VDD_IN": 5.0}, readings=readings))
    assert (spent.low_mj, spent.high_mj, spent.mj) == (None, None, pytest.approx(50.0))


@pytest.mark.parametrize("watts", [None, {}, {"VDD_IN": None}, {"VDD_IN": 0.0}, {"VDD_IN": -1.0}])
def test_without_a_meter_there_is_none(watts):
    assert energy(row(watts)) is None


def test_without_a_time_there_is_none():
    assert energy(row({"VDD_IN": 5.0}, latency=None)) is None
