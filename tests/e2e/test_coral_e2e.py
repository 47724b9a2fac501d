"""The main job for the Coral: an integer file with the device's interface, a prediction, and a way to compile it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doubles import ROOT

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
    from compress.formats.tflite.runtime import open_file

    run, _ = finished
    with np.load(run / "golden.npz") as golden:
        computed = open_file(run / "to_tflite.tflite", threads=1)(golden["inputs"])
        np.testing.assert_array_equal(computed, golden["to_tflite"])


def test_the_drift_is_a_step_or_two(finished):
    run, _ = finished
    (drift,) = json.loads((run / "report.json").read_text())["drift"]
    assert (drift["stage"], drift["lsb_from"]) == ("to_tflite", "output scale")
    assert drift["max_lsb"] <= 2.01


def test_what_is_not_compiled_is_not_timed_as_if_it_were(finished):
    run, _ = finished
    row = rows(run)["to_edgetpu"]
    assert (row["format"], row["runtime"], row["latency"]) == ("edgetpu", "edgetpu, on the device", None)
    assert "only what the Edge TPU compiler makes of it runs" in row["notes"]["latency"]
    assert "predicted: " in row["notes"]["edge tpu"]
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    tpu, net = manifest["models"]
    assert (tpu["stage"], tpu["runtime"], tpu["compiled"]) == ("to_edgetpu", "edgetpu", "to_edgetpu_edgetpu.tflite")
    assert (net["stage"], net["runtime"], net["compiled"]) == ("to_tflite", "litert", None)
    assert "to_edgetpu_compile.sh" in {record["path"] for record in manifest["files"]}
    with np.load(run / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["to_edgetpu"], golden["to_tflite"])


STANDIN = ROOT / "tests" / "device" / "standin"


@pytest.fixture(scope="module")
def compiled(finished, tmp_path_factory):
    """The same job where a compiler is on the PATH; what comes before it is found again."""
    first, _ = finished
    home = first.parents[2]
    programs = tmp_path_factory.mktemp("bin")
    program = programs / "edgetpu_compiler"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {STANDIN / "edgetpu_compiler.py"} "$@"\n')
    program.chmod(0o755)
    beside = os.pathsep.join([str(STANDIN), os.environ.get("PYTHONPATH", "")])
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    wanted = "stage.to_edgetpu.min_mapped=1.0"
    done = compress("target=coral", wanted, cwd=home, EDGETPU_COMPILER="", PATH=path, PYTHONPATH=beside)
    assert done.code == 0, done.err
    (run,) = [folder for folder in run_folders(home / "outputs") if folder != first]
    return run, beside


def test_with_a_compiler_the_run_goes_to_its_end(compiled):
    run, _ = compiled
    records = {record["path"]: record for record in checked_manifest(run)["files"]}
    assert records["to_edgetpu_edgetpu.tflite"]["format"] == "edgetpu"
    assert {"bundle/to_edgetpu_edgetpu.tflite", "bundle/to_tflite.tflite"} <= set(records)
    assert "bundle/to_edgetpu.tflite" not in records
    row = rows(run)["to_edgetpu"]
    assert (row["format"], row["runtime"], row["latency"]) == ("edgetpu", "edgetpu, not run", None)
    assert "compiler 16.0.384591198" in row["notes"]["edge tpu"]
    assert row["size_bytes"] == (run / "to_edgetpu_edgetpu.tflite").stat().st_size


def test_the_device_times_each_file_under_its_own_runtime(compiled):
    run, beside = compiled
    result = run.parent / f"{run.name}.json"
    command = [sys.executable, str(run / "bundle" / "benchmark.py"), "--any-device", "--seconds", "0.2"]
    subprocess.run(
        [*command, "--threads", "1", "--json", str(result)], check=True, env={**os.environ, "PYTHONPATH": beside}
    )
    found = {row["stage"]: row for row in json.loads(result.read_text())["results"]}
    result.unlink()
    assert found["to_edgetpu"]["runtime"].startswith("edgetpu (pycoral")
    assert found["to_tflite"]["runtime"].startswith("ai_edge_litert")
    assert [row["problem"] for row in found.values()] == [None, None]
    assert {row["path"] for row in found.values()} == {"to_edgetpu_edgetpu.tflite", "to_tflite.tflite"}


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
