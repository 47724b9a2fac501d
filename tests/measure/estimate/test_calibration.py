import json
from dataclasses import asdict, replace

import pytest

from compress.core.artifact import Precision
from compress.measure.estimate.calibration import Point, add_points, calibration_file, read_points, summarize
from compress.measure.estimate.roofline import BAND


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path


def point(estimate_ms, measured_ms, *, stage="net", precision=Precision.FP32, device="Pi A"):
    return Point("0" * 64, stage, precision, device, "onnxruntime 1.31.1", estimate_ms, measured_ms)


def test_nothing_measured_changes_nothing():
    assert read_points("raspberry_pi_4") == ()
    known = summarize((), Precision.FP32)
    assert (known.factor, known.band, known.points) == (1.0, BAND, 0)


def test_points_are_kept_and_newer_ones_replace_older(data_folder):
    add_points("raspberry_pi_4", [point(10, 15)])
    add_points("raspberry_pi_4", [point(10, 12), point(5, 6, stage="other")])
    assert [(p.stage, p.measured_ms) for p in read_points("raspberry_pi_4")] == [("net", 12), ("other", 6)]
    assert calibration_file("raspberry_pi_4").is_relative_to(data_folder)


def test_the_factor_is_the_median_ratio_of_its_precision():
    points = [point(10, 12), point(10, 15), point(10, 18), point(10, 40, precision=Precision.INT8)]
    known = summarize(points, Precision.FP32)
    assert known.factor == pytest.approx(1.5)
    assert known.band == pytest.approx(max(1.5 / 1.2, BAND ** (1 / 3)))
    assert known.basis == "roofline, calibrated with 3 measurements on Pi A"
    assert summarize(points, Precision.INT8).factor == pytest.approx(4.0)


def test_one_measurement_keeps_the_wide_band():
    assert summarize([point(10, 12)], Precision.FP32).band == pytest.approx(BAND)


def test_a_damaged_file_is_no_calibration():
    calibration_file("raspberry_pi_4").parent.mkdir(parents=True)
    calibration_file("raspberry_pi_4").write_text("{")
    assert read_points("raspberry_pi_4") == ()


BAD = [0, -1, "NaN", "Infinity", "-Infinity", 1e308, 1e-320, "x", None, [1.0], {}]


def write(points, **more):
    path = calibration_file("raspberry_pi_4")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"target": "raspberry_pi_4", "points": points, **more}))
    return path


@pytest.mark.parametrize("name", ["estimate_ms", "measured_ms"])
@pytest.mark.parametrize("value", BAD)
def test_a_bad_point_of_a_shared_file_is_left_out_and_told(name, value, caplog):
    path = write([{**asdict(point(10, 15)), name: value}, asdict(point(10, 12))])
    points = read_points("raspberry_pi_4")
    assert [p.measured_ms for p in points] == [12]
    assert summarize(points, Precision.FP32).factor == pytest.approx(1.2)
    assert caplog.messages == [f"{path}: 1 unusable points are left out"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_file_that_is_no_json_is_not_used_and_told(value, caplog):
    path = write([{**asdict(point(10, 15)), "measured_ms": value}, asdict(point(10, 12))])
    assert read_points("raspberry_pi_4") == ()
    (told,) = caplog.messages
    assert told.startswith(f"{path} is not used: ")
    assert told.endswith("is not a number in JSON")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e308])
def test_a_bad_point_is_never_written(value):
    assert add_points("raspberry_pi_4", [point(10, value), point(value, 10, stage="other")]) == 0
    assert not calibration_file("raspberry_pi_4").exists()
    assert add_points("raspberry_pi_4", [point(10, value), point(10, 12)]) == 1
    assert [p.measured_ms for p in read_points("raspberry_pi_4")] == [12]


def test_texts_of_a_point_are_bounded_and_shown_as_one_line():
    write([asdict(point(10, 12, device="Pi\x1b[2J\nerror: forged")), asdict(point(10, 12, device="x" * 10_000))])
    (known,) = read_points("raspberry_pi_4")
    assert known.device == r"Pi\x1b[2J\nerror: forged"


def test_a_huge_file_is_not_read(caplog):
    path = write([asdict(point(10, 12))])
    with path.open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse
    assert read_points("raspberry_pi_4") == ()
    assert caplog.messages == [f"{path} is not used: it is larger than 16 MiB"]
    path.write_text("[" * 100_000)
    assert read_points("raspberry_pi_4") == ()


def test_a_file_does_not_grow_for_ever():
    add_points("raspberry_pi_4", [replace(point(10, 12), stage=f"s{number}") for number in range(2500)])
    points = read_points("raspberry_pi_4")
    assert len(points) == 2000
    assert points[-1].stage == "s2499"
