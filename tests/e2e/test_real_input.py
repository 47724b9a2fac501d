"""Real checkpoints on real images, and torchvision's networks through every recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from compress.__main__ import main
from compress.config.schema import load_target
from compress.quantization.fused import count_fused

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, rows, run_folders

NETWORKS = ["resnet18", "mobilenet_v2", "mobilenet_v3_small"]
TARGETS = ["jetson_nano", "jetson_xavier_nx", "raspberry_pi_4", "raspberry_pi_5"]
# one FP16 and one INT8 recipe always run; the other pairs take half a minute each and share their code with these
QUICK = {("jetson_nano", "mobilenet_v2"), ("raspberry_pi_4", "mobilenet_v3_small")}
PAIRS = [
    pytest.param(target, network, marks=() if (target, network) in QUICK else pytest.mark.slow)
    for target in TARGETS
    for network in NETWORKS
]


def finished_run(folder: Path, *overrides: str) -> Path:
    """Run the command in this process; the run folder, its manifest checked."""
    assert main([*overrides, f"output={folder}", "measure.latency_seconds=0.2"]) == 0
    run = run_folders(folder)[-1]
    checked_manifest(run)
    return run


@pytest.mark.real_data
def test_resnet20_from_its_checkpoint(shared_data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(shared_data)
    run = finished_run(
        tmp_path,
        "target=raspberry_pi_4",
        "~stage.magnitude",
        "model=factory",
        "model.factory=nets:resnet20",
        f"model.checkpoint={shared_data}/weights/resnet20-12fca82f.th",
        "model.input.shape=[3,32,32]",
        "data=image_folder",
        f"data.train={shared_data}/images/cifar10_train4000",
        f"data.test={shared_data}/images/cifar10_test500",
    )
    measured = rows(run)
    source, int8 = measured["source"], measured["to_onnx"]
    assert source["accuracy"]["samples"] == 500
    assert source["accuracy"]["top1"] == pytest.approx(0.928, abs=0.001)
    assert int8["accuracy"]["top1"] >= source["accuracy"]["top1"] - 0.006
    assert int8["fidelity"]["agreement"] >= 0.97
    assert int8["size_bytes"] <= 0.32 * measured["to_onnx_fp32"]["size_bytes"]
    fused = count_fused(run / "to_onnx.onnx")
    assert fused.integer["QLinearConv"] == 19
    assert fused.float["Conv"] == 0


@pytest.mark.slow
@pytest.mark.real_data
def test_mobilenet_v1_on_the_nips_images(shared_data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(shared_data)
    run = finished_run(
        tmp_path,
        "target=raspberry_pi_4",
        "~stage.magnitude",
        "model=factory",
        "model.factory=nets:MobileNetV1_025",
        f"model.checkpoint={shared_data}/weights/mobilenetv1_0.25_state_dict.pt",
        "model.input.shape=[3,224,224]",
        "data=csv",
        f"data.file={shared_data}/images/nips2017/labels_and_attribution.csv",
        "data.path_column=file",
        "data.label_column=imagenet_class_0based",
        "data.resize=256",
        "data.validation=0",
        "data.finetune=0",
    )
    measured = rows(run)
    assert measured["source"]["accuracy"]["samples"] == 400 - 128
    assert 0.42 <= measured["source"]["accuracy"]["top1"] <= 0.58
    assert measured["to_onnx"]["fidelity"]["agreement"] >= 0.85
    assert count_fused(run / "to_onnx.onnx").float["Conv"] == 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A few random images at the networks' size; labels are of no consequence for random weights."""
    path = tmp_path_factory.mktemp("photos") / "photos.npz"
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 224, 224, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(16))
    return path


@pytest.mark.parametrize(("target", "network"), PAIRS)
def test_torchvision_networks_through_every_recipe(target, network, photos, tmp_path):
    run = finished_run(
        tmp_path,
        f"target={target}",
        f"model={network}",
        "data=npz",
        f"data.file={photos}",
        "data.calibration=4",
        "data.validation=0",
        "data.finetune=0",
        "golden_samples=2",
        "measure=quick",  # what is looked at below are the source and the file
        "budget=off",  # random weights: whole layers make no difference, and those that become zero are stored once
        "~stage.to_onnx_fp32",
    )
    model = onnx.load(run / "to_onnx.onnx")
    onnx.checker.check_model(model, full_check=True)
    ceiling = load_target(target, []).onnx_opset_max
    if ceiling is not None:
        assert model.opset_import[0].version <= ceiling.value
    session = onnxruntime.InferenceSession(run / "to_onnx.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": np.zeros((1, 3, 224, 224), np.float32)})
    assert logits.shape == (1, 1000)
    final, source = rows(run)["to_onnx"], rows(run)["source"]
    assert final["macs"] == source["macs"]
    assert final["sparsity"]["zeros"] >= rows(run)["magnitude"]["sparsity"]["zeros"]
