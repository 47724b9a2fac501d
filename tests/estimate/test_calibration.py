import pytest

from compress.estimate.calibration import Point, add_points, calibration_file, read_points, summarize
from compress.estimate.roofline import BAND
from compress.types import Precision


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
