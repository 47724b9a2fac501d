"""An ONNX model whose weights lie beside it goes through the command as one thing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, rows, run_folders


def write_model(path: Path, seed: int) -> None:
    """A small classifier with its weights in `weights.bin`."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (4, 1, 3, 3), "m": (5, 4)}
    stored = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "m"], ["y"], transB=1),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ("n", 1, 16, 16)), ("y", ("n", 5)))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (path.parent / "weights.bin").unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


@pytest.mark.slow
def test_weights_beside_the_file_are_delivered_and_hashed(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 16, 16), np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=rng.integers(0, 5, 200))
    path, answers = tmp_path / "m.onnx", []
    for seed in (1, 2):
        write_model(path, seed)
        code = main(
            [
                "target=raspberry_pi_4",
                "~stage.fold_batchnorm",
                "~stage.magnitude",
                "model=file",
                f"model.path={path}",
                "model.input.shape=[1,16,16]",
                "model.input.channel_order=gray",
                "model.input.mean=[0.5]",
                "model.input.std=[0.5]",
                "data=npz",
                f"data.file={tmp_path}/d.npz",
                "data.calibration=16",
                "data.validation=16",
                "data.evaluation=32",
                "measure.latency_runs=3",
                f"output={tmp_path}/outputs",
            ]
        )
        assert code == 0
        run = run_folders(tmp_path / "outputs")[-1]
        checked_manifest(run)
        with np.load(run / "golden.npz") as golden:
            answers.append({name: golden[name] for name in ("reference", "to_onnx")})
        delivered = onnx.load(run / "bundle" / "to_onnx.onnx", load_external_data=False)
        assert not any(tensor.external_data for tensor in delivered.graph.initializer)
        assert rows(run)["source"]["parameters"] == 36 + 20
        assert rows(run)["source"]["size_bytes"] > 4 * 56
    assert not np.allclose(answers[0]["reference"], answers[1]["reference"])
    assert not np.allclose(answers[0]["to_onnx"], answers[1]["to_onnx"])
