"""The main job for the Coral: an integer file with the device's interface, a prediction, and a way to compile it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, compress, rows, run_folders

pytest.importorskip("litert_torch", reason="needs the extra tflite")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coral")
    done = compress("target=coral", "stage.to_edgetpu.min_mapped=1.0", cwd=folder, EDGETPU_COMPILER="")
    assert done.code == 0, done.err
    (run,) = run_folders(folder / "outputs")
    return run, done


def test_the_bundle_has_the_file_and_its_script(finished):
    run, done = finished
    records = {record["path"]: record for record in checked_manifest(run)["files"]}
    assert {"to_tflite.tflite", "to_edgetpu.tflite", "to_edgetpu_compile.sh", "golden.npz"} <= set(records)
    given, taken = records["to_tflite.tflite"]["ports"]
    assert (given["dtype"], given["shape"]) == ("uint8", [1, 32, 32, 1])
    assert taken["scale"] > 0
    assert "Traceback" not in done.err
    assert "operators mapped" in done.out + done.err


def test_every_boundary_is_measured_in_its_own_runtime(finished):
    run, _ = finished
    measured = rows(run)
    final = measured["to_tflite"]
    assert final["runtime"].startswith("ai-edge-litert")
    assert (final["format"], final["precision"]) == ("tflite", "int8")
    assert final["accuracy"]["top1"] >= measured["source"]["accuracy"]["top1"] - 0.02
    assert final["macs"] == measured["source"]["macs"]
    assert final["sparsity"]["zeros"] >= measured["magnitude"]["sparsity"]["zeros"]
    assert "latency" not in final["notes"]  # INT8 kernels ran; nothing was emulated


def test_golden_outputs_are_the_files(finished):
    from compress.runtimes.tflite import open_file

    run, _ = finished
    with np.load(run / "golden.npz") as golden:
        computed = open_file(run / "to_tflite.tflite", threads=1)(golden["inputs"])
        np.testing.assert_array_equal(computed, golden["to_tflite"])


def test_the_drift_is_a_step_or_two(finished):
    run, _ = finished
    (drift,) = json.loads((run / "report.json").read_text())["drift"]
    assert (drift["stage"], drift["lsb_from"]) == ("to_tflite", "output scale")
    assert drift["max_lsb"] <= 2.01


def test_float_is_refused_before_any_work(tmp_path):
    done = compress("target=coral", "precision=fp32", cwd=tmp_path)
    assert done.code == 2
    assert "Coral Edge TPU runs full-integer files only" in done.err
    assert "fix: precision=int8" in done.err
    assert not run_folders(tmp_path / "outputs")


@pytest.mark.slow
def test_scales_of_a_training_travel_into_the_file(tmp_path):
    done = compress("target=coral", "precision=int8_qat", "stage.qat.epochs=1", cwd=tmp_path, EDGETPU_COMPILER="")
    assert done.code == 0, done.err
    (run,) = run_folders(tmp_path / "outputs")
    (drift,) = json.loads((run / "report.json").read_text())["drift"]
    assert (drift["stage"], drift["reference"]) == ("to_tflite", "qat")
    assert drift["max_lsb"] <= 2.01
    assert drift["agreement"] >= 0.99
    assert rows(run)["to_tflite"]["accuracy"]["top1"] >= 0.97
