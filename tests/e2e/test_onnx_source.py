"""An ONNX file through the recipes as README says it, without leaving anything out by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.__main__ import main
from compress.quantization.fused import count_fused

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, rows, run_folders

GRAY = ("model.input.shape=[1,16,16]", "model.input.channel_order=gray", "model.input.mean=[0]", "model.input.std=[1]")
FEW = ("data.calibration=16", "data.validation=8", "data.finetune=0", "golden_samples=2", "measure.latency_seconds=0.1")
CLASSES = 4


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """`model.onnx`, and images with its own answers (`fitting.npz`) or with answers dealt out at random as labels."""
    folder, generator = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    tensors = {
        "w1": generator.normal(0, 0.4, (16, 1, 3, 3)),
        "b1": generator.normal(0, 0.1, 16),
        "w2": generator.normal(0, 0.2, (16, 16, 3, 3)),
        "b2": generator.normal(0, 0.1, 16),
        "fc": generator.normal(0, 1, (CLASSES, 16)),
        "bias": np.zeros(CLASSES),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc", "bias"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    grain = generator.integers(0, 256, (150, 16, 16)) * generator.uniform(0, 1, (150, 1, 1))
    images = np.clip(grain + generator.integers(0, 128, (150, 1, 1)), 0, 255).astype(np.uint8)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    scores = np.concatenate([session.run(None, {"image": x[None, None].astype(np.float32) / 255})[0] for x in images])
    labels = (scores - np.median(scores, axis=0)).argmax(axis=1)
    # the last layer's bias makes every class about as common as the others
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(-np.median(scores, axis=0), "bias"))
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "fitting.npz", images=images, labels=labels)
    np.savez(folder / "shuffled.npz", images=images, labels=generator.permutation(labels))
    return folder


def run(files: Path, output: Path, target: str, data: str) -> Path:
    source = ("model=file", f"model.path={files}/model.onnx", *GRAY, "data=npz", f"data.file={files}/{data}.npz")
    assert main([f"target={target}", *source, *FEW, f"output={output}"]) == 0
    folder = run_folders(output)[-1]
    checked_manifest(folder)
    return folder


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_a_raspberry_pi_gets_an_int8_file(files, tmp_path, capsys):
    folder = run(files, tmp_path, "raspberry_pi_4", "fitting")
    assert list(rows(folder)) == ["source", "to_onnx_fp32", "ptq_static", "to_onnx"]
    assert rows(folder)["ptq_static"]["feed"] == "source"
    fused = count_fused(folder / "to_onnx.onnx")
    assert (fused.integer["QLinearConv"], fused.float["Conv"]) == (2, 0)
    assert [absent["stage"] for absent in report(folder)["left_out"]] == ["fold_batchnorm", "magnitude"]
    assert report(folder)["at_chance"] is None
    printed = capsys.readouterr()
    assert "magnitude is left out: it takes torch and the model is onnx" in printed.out + printed.err
    assert "labels do not fit this model?" not in printed.out


def test_a_jetson_nano_gets_fp16_and_a_plan_for_its_engine(files, tmp_path):
    folder = run(files, tmp_path, "jetson_nano", "fitting")
    measured = rows(folder)
    assert list(measured) == ["source", "to_onnx_fp32", "fp16", "to_onnx", "to_tensorrt"]
    assert measured["to_onnx"]["precision"] == "fp16"
    assert (folder / "to_tensorrt.plan.json").is_file() or (folder / "to_tensorrt.engine").is_file()


def test_a_coral_gets_a_full_integer_file_and_shuffled_labels_are_a_warning(files, tmp_path, capsys):
    pytest.importorskip("litert_torch")
    folder = run(files, tmp_path, "coral", "shuffled")
    assert list(rows(folder)) == ["source", "ptq_static", "to_tflite", "to_edgetpu"]
    assert (folder / "to_tflite.tflite").is_file()
    doubt = report(folder)["at_chance"]
    assert doubt["top1"] == rows(folder)["source"]["accuracy"]["top1"]
    assert doubt["samples"] == 150 - 16 - 8
    for text in (capsys.readouterr().out, *((folder / f"report.{kind}").read_text() for kind in ("md", "html"))):
        assert "labels do not fit this model?" in text
