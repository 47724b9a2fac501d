import json
import os
from dataclasses import replace

import pytest
from bundle_factory import edit_manifest, make_bundle
from report_rows import run_report

from compress.core.errors import ConfigError
from compress.measure.estimate.calibration import read_points
from compress.pipeline.attach import attach
from compress.results.bundle import read_bundle
from compress.results.device import DeviceFacts, DeviceLatency, DeviceResult, DeviceRow, DeviceRun, GoldenCheck
from compress.results.manifest import delivered_files
from compress.results.report import Report


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def bundle(tmp_path):
    return read_bundle(make_bundle(tmp_path))


def run(bundle, **facts):
    latency = DeviceLatency(2.0, 1.9, 2.1, 2.2, 2.4, 1.8, 100, 20, True, 500.0)
    row = DeviceRow("net", "fp32", 4, 1, None, "onnxruntime 1.31.1", 1.0, GoldenCheck(True), latency)
    device = DeviceFacts("Pi", "aarch64", 4, "Linux", "3.11.2", **facts)
    return DeviceRun("pi@kitchen", DeviceResult(1, bundle.digest, "raspberry_pi_4", "now", device, (row,), True))


def test_the_result_lies_beside_the_bundle(bundle, tmp_path):
    lines = list(attach(bundle, [run(bundle)]))
    assert json.loads((tmp_path / "device-pi_kitchen.json").read_text())["device"]["model"] == "Pi"
    assert lines[0] == f"pi@kitchen: {tmp_path / 'device-pi_kitchen.json'}"


def test_a_real_board_calibrates_its_kind(bundle):
    lines = list(attach(bundle, [run(bundle)]))
    (point,) = read_points("raspberry_pi_4")
    assert (point.stage, point.device, point.measured_ms) == ("net", "Pi", 2.0)
    assert 0 < point.estimate_ms < 2
    assert "1 figures calibrate the estimates for raspberry_pi_4" in lines[1]


def test_a_home_that_cannot_be_written_costs_no_result(bundle, tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    (tmp_path / "report.json").write_text("{}")  # which comes after the calibration
    lines = attach(bundle, [run(bundle)])
    assert next(lines).startswith("pi@kitchen: ")
    assert next(lines).startswith("pi@kitchen: the estimates are not calibrated: cannot write")
    with pytest.raises(ConfigError):
        next(lines)


@pytest.mark.parametrize("facts", [{"emulated": "qemu"}, {"virtual_machine": True}])
def test_what_is_no_board_calibrates_nothing(bundle, facts):
    list(attach(bundle, [run(bundle, **facts)]))
    assert read_points("raspberry_pi_4") == ()


def test_another_machine_calibrates_nothing(bundle):
    other = run(bundle)
    facts = replace(other.result.device, architecture="x86_64")
    list(attach(bundle, [replace(other, result=replace(other.result, device=facts))]))
    assert read_points("raspberry_pi_4") == ()
    assert os.environ["XDG_DATA_HOME"]


def test_devices_whose_names_differ_in_odd_characters_have_files_of_their_own(bundle, tmp_path):
    runs = [
        replace(run(bundle), name=name) for name in ("pi@kitchen", "pi:kitchen", "PI_kitchen", "../../x", "y" * 300)
    ]
    list(attach(bundle, runs))
    files = sorted(path.name for path in tmp_path.glob("device-*.json"))
    assert len(files) == len(runs)
    assert "device-.._.._x.json" in files
    assert len({name.casefold() for name in files}) == len(files)
    assert max(map(len, files)) < 130


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_plain_file_beside_the_bundle_is_left_alone(bundle, tmp_path, kind):
    odd, secret = tmp_path / "device-odd.json", tmp_path.parent / f"{tmp_path.name}-secret"
    secret.write_text("secret")
    {"link": lambda: odd.symlink_to(secret), "fifo": lambda: os.mkfifo(odd), "folder": odd.mkdir}[kind]()
    (tmp_path / "report.json").write_bytes(run_report().to_json())
    list(attach(bundle, [run(bundle)]))
    report = Report.from_json((tmp_path / "report.json").read_bytes())
    assert [file.path for file in report.files] == ["device-pi_kitchen.json"]
    assert secret.read_text() == "secret"


def test_links_of_a_run_folder_are_in_no_manifest(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").symlink_to("/etc/passwd")
    (tmp_path / "c").symlink_to(tmp_path)
    assert delivered_files(tmp_path) == [tmp_path / "a"]


@pytest.mark.parametrize("damage", [b"", b"noise", b"\x08\xff" * 50])
def test_a_file_that_is_no_graph_calibrates_nothing(tmp_path, damage):
    folder = make_bundle(tmp_path)
    (folder / "net.onnx").unlink()
    (folder / "net.onnx").write_bytes(damage)

    def resized(document):
        for record in document["files"]:
            record["size_bytes"] = (folder / record["path"]).stat().st_size

    edit_manifest(folder, resized)
    bundle = read_bundle(folder)
    assert len(list(attach(bundle, [run(bundle)]))) == 1
    assert read_points("raspberry_pi_4") == ()
