"""Prune, fine-tune and quantize in one run of the real command: structure and zeros are kept, one report."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from compress.formats.onnx.pattern import onnx_pattern

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, compress, rows, run_folders

RECIPE = (
    "target=jetson_orin_nano",
    "precision=int8_qat",
    "~stage.magnitude",
    "~stage.to_onnx_fp32",
    "budget=off",  # eight epochs bring back less than a real training would
    "stage.qat.epochs=1",
    "stage.qat.learning_rate=1e-4",
    *("+stage@stage.structured=structured", "stage.structured.before=fold_batchnorm", "stage.structured.keep=0.6"),
    *("+stage@stage.tune=finetune", "stage.tune.before=fold_batchnorm", "stage.tune.epochs=4"),
    "stage.tune.learning_rate=0.05",
    *("+stage@stage.two_four=semi_structured", "stage.two_four.before=fold_batchnorm"),
    *("+stage@stage.tune2=finetune", "stage.tune2.before=fold_batchnorm", "stage.tune2.epochs=4"),
    *("stage.tune2.learning_rate=0.05", "stage.tune2.distill=true"),
    *("+stage@stage.scan=prune_scan", "stage.scan.before=structured", "stage.scan.of=channels"),
    "stage.scan.ratios=[0.5]",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prune")
    done = compress(*RECIPE, cwd=folder)
    assert done.code == 0, done.err
    (run,) = run_folders(folder / "outputs")
    return run, done


def made_here(run):
    """Rows of what exists: an engine is built on the device, and its row has no figures."""
    return {stage: row for stage, row in rows(run).items() if stage != "to_tensorrt"}


def test_structure_and_zeros_are_kept_to_the_exported_file(finished):
    run, _ = finished
    measured = made_here(run)
    ratios = {stage: row["macs"] / measured["source"]["macs"] for stage, row in measured.items() if row["macs"]}
    assert ratios["structured"] == pytest.approx(0.6, abs=0.02)
    for stage in ("tune", "two_four", "tune2", "fold_batchnorm", "qat", "to_onnx"):
        assert ratios.get(stage, ratios["structured"]) == pytest.approx(ratios["structured"], abs=1e-6)
    zeros = {stage: row["sparsity"]["zeros"] for stage, row in measured.items()}
    assert zeros["to_onnx"] >= zeros["tune2"] == zeros["two_four"] > 0
    found = onnx_pattern(onnx.load(run / "to_onnx.onnx"), 2, 4)
    assert found.following == found.layers - 1
    assert "2:4" in measured["to_onnx"]["notes"]


def test_the_accuracy_comes_back(finished):
    run, _ = finished
    top1 = {stage: row["accuracy"]["top1"] for stage, row in made_here(run).items()}
    assert top1["structured"] < 0.95 < top1["tune"]
    assert top1["to_onnx"] >= top1["source"] - 0.03


def test_the_scan_lies_in_the_run_folder(finished):
    run, done = finished
    assert (run / "scan.csv").read_text().startswith("layer,size,share,top1,loss\n")
    assert (run / "scan.svg").is_file()
    assert {"scan.csv", "scan.svg"} <= {record["path"] for record in checked_manifest(run)["files"]}
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("target=raspberry_pi_4", "+stage@stage.nm=semi_structured", "stage.nm.before=fold_batchnorm"),
            "cannot run 2:4 sparse weights any faster than dense ones: ONNX Runtime's CPU kernels are dense",
        ),
        (
            (
                "target=raspberry_pi_4",
                "+stage@stage.cut=structured",
                "stage.cut.before=fold_batchnorm",
                "stage.cut.keep=0",
            ),
            "stage.cut.keep=0: input should be greater than 0",
        ),
        (
            ("target=raspberry_pi_4", "+stage@stage.cut=structured", "stage.cut.before=to_onnx"),
            "stage 'cut' prunes fp32 weights, but its input is already int8",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(tmp_path, overrides, message):
    done = compress(*overrides, cwd=tmp_path)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
