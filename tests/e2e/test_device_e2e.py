"""The pipeline with `device.host=`: through the real command."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from command import checked_manifest, compress, run_folders
from doubles import ROOT


def test_a_device_that_cannot_be_reached_stops_the_run_before_any_work(tmp_path):
    started = time.monotonic()
    done = compress("target=raspberry_pi_4", "device.host=pi@127.0.0.1:1", cwd=tmp_path)
    assert done.code == 1
    assert "error: pi@127.0.0.1:1 cannot be reached: ssh: connect to host 127.0.0.1 port 1" in done.err
    assert "Traceback" not in done.err
    assert not run_folders(tmp_path / "outputs")
    assert time.monotonic() - started < 30


def test_a_misspelt_device_option_names_the_right_one(tmp_path):
    done = compress("target=raspberry_pi_4", "device.hots=pi@x", cwd=tmp_path)
    assert done.code == 2
    assert "host" in done.err


@pytest.mark.slow
def test_a_device_measures_the_result_of_a_run(tmp_path):
    """This machine as its own target: what the board measured stands in the report beside the host's numbers."""
    facts = yaml.safe_load((ROOT / "targets/raspberry_pi_4.yaml").read_text())
    facts |= {"name": "this_pc", "title": "This PC", "architecture": os.uname().machine}
    (tmp_path / "mine/targets").mkdir(parents=True)
    (tmp_path / "mine/targets/this_pc.yaml").write_text(yaml.safe_dump(facts))
    (tmp_path / "mine/target").mkdir()
    recipe = (ROOT / "conf/target/raspberry_pi_4.yaml").read_text().replace("name: raspberry_pi_4", "name: this_pc")
    (tmp_path / "mine/target/this_pc.yaml").write_text(recipe)
    home = tmp_path / "home"
    home.mkdir()
    options = ("target=this_pc", "--config-dir", "mine", "device.host=local", "device.seconds=0.5")
    done = compress(
        *options,
        cwd=tmp_path,
        HOME=str(home),
        XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME", "") or str(Path.home() / ".cache"),
    )
    assert done.code == 0, done.err
    assert "Measured on the device itself" in done.out
    (folder,) = run_folders(tmp_path / "outputs")
    checked_manifest(folder)
    for page in ("report.html", "report.md"):
        assert "Measured on the device" in (folder / page).read_text()
    report = json.loads((folder / "report.json").read_text())
    (device,) = report["devices"]
    assert {row["stage"] for row in device["result"]["results"]} == {"to_onnx", "to_onnx_fp32"}
    assert all(row["golden"]["passed"] for row in device["result"]["results"])
    assert {guess["stage"] for guess in report["estimates"]} == {"to_onnx", "to_onnx_fp32"}
    shutil.rmtree(home)
