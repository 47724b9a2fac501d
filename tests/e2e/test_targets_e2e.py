"""The main job for every target on the embedded model and data: real command, real files, real runtimes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from compress.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, compress, rows, run_folders

EXPECTED = {
    "jetson_nano": ("fp16", 13),
    "jetson_xavier_nx": ("int8", 17),
    "raspberry_pi_4": ("int8", 18),
    "raspberry_pi_5": ("int8", 18),
}


@pytest.fixture(scope="module", params=list(EXPECTED))
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    done = compress(f"target={request.param}", cwd=folder)
    assert done.code == 0, done.err
    (run,) = run_folders(folder / "outputs")
    return request.param, run, done


def test_the_manifest_names_whole_files(finished):
    target, run, _ = finished
    manifest = checked_manifest(run)
    assert manifest["target"] == target
    assert {"to_onnx.onnx", "golden.npz", "report.json"} <= {record["path"] for record in manifest["files"]}


def test_the_file_fits_the_device(finished):
    target, run, _ = finished
    precision, opset = EXPECTED[target]
    model = onnx.load(run / "to_onnx.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert max(entry.version for entry in model.opset_import) <= opset
    assert model.ir_version <= 8
    types = {initializer.data_type for initializer in model.graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in types) == (precision == "fp16")
    assert (onnx.TensorProto.INT8 in types) == (precision == "int8")


def test_golden_outputs_are_what_the_file_computes(finished):
    _, run, _ = finished
    session = onnxruntime.InferenceSession(run / "to_onnx.onnx", providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]
    with np.load(run / "golden.npz") as golden:
        computed = np.concatenate([session.run(None, {name: image[None]})[0] for image in golden["inputs"]])
        np.testing.assert_allclose(computed, golden["to_onnx"], rtol=1e-5, atol=1e-5)
        assert (computed.argmax(1) == golden["reference"].argmax(1)).mean() >= 0.8


def test_every_boundary_is_measured(finished):
    target, run, _ = finished
    measured = rows(run)
    assert next(iter(measured)) == "source"
    assert measured["source"]["accuracy"]["top1"] >= 0.97
    final = measured["to_onnx"]
    assert final["runtime"].startswith("onnxruntime")
    assert final["precision"] == EXPECTED[target][0]
    assert final["size_bytes"] == (run / "to_onnx.onnx").stat().st_size
    assert final["size_bytes"] < measured["source"]["size_bytes"] * (0.6 if target == "jetson_nano" else 0.45)
    assert final["accuracy"]["top1"] >= measured["source"]["accuracy"]["top1"] - 0.02
    assert final["fidelity"]["agreement"] >= 0.97
    assert final["latency"]["runs"] > 10
    assert final["macs"] == measured["source"]["macs"]


def test_zeros_survive_into_the_file(finished):
    _, run, _ = finished
    sparsity = {stage: row["sparsity"] for stage, row in rows(run).items()}
    pruned = sparsity["magnitude"]["zeros"] / sparsity["magnitude"]["total"]
    assert 0.2 < pruned <= 0.301  # 30 %, or as much of it as the accuracy budget allows
    assert sparsity["to_onnx"]["zeros"] >= sparsity["magnitude"]["zeros"]
    assert sparsity["to_onnx"]["total"] == sparsity["magnitude"]["total"]


def test_the_report_can_be_reproduced(finished):
    _, run, _ = finished
    report = json.loads((run / "report.json").read_text())
    assert report["schema_version"] == 2
    assert report["seed"] == 0
    assert report["versions"]["torch"].startswith("2.")
    assert report["config"]["stage"]["magnitude"]["amount"] == 0.3
    assert {"calibration", "evaluation"} <= set(report["splits"])


def test_the_terminal_says_what_happened(finished):
    target, run, done = finished
    assert "to_onnx" in done.out
    assert str(Path("outputs") / target / run.name) in done.out
    assert "Traceback" not in done.err
    assert "Warning" not in done.err


def test_a_second_run_reuses_the_stages(finished, monkeypatch):
    target, run, _ = finished
    monkeypatch.chdir(run.parents[2])
    assert main([f"target={target}"]) == 0  # in this process: another one would only import everything again
    again = run_folders(run.parents[1])[-1]
    assert again != run
    assert all(row["reused"] for row in rows(again).values())
    assert (again / "to_onnx.onnx").read_bytes() == (run / "to_onnx.onnx").read_bytes()


def test_what_only_the_device_can_build_is_planned(finished):
    target, run, done = finished
    plan = run / "bundle" / "to_tensorrt.plan.json"
    assert plan.exists() == target.startswith("jetson")
    if plan.exists():
        assert (run / "bundle" / json.loads(plan.read_text())["onnx"]).exists()
        assert (run / "bundle" / "build_engine.py").exists()
        assert rows(run)["to_tensorrt"]["latency"] is None
        assert "build_engine.py in the bundle builds to_onnx.onnx on the" in " ".join(done.out.split())
