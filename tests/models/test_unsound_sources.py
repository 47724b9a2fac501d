"""A run whose source holds values that are no numbers: one line with file and tensor, and nothing is stored."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from compress.__main__ import main

NAN = float("nan")
FAULTS = {
    "NaN": ("0.weight", NAN, r"values that are not numbers (NaN)"),
    "infinite": ("4.bias", float("inf"), "infinite values"),
    "variance": ("1.running_var", -0.5, "negative variances"),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def broken(kind: str) -> nn.Sequential:
    name, value, _ = FAULTS[kind]
    net = network().eval()
    with torch.no_grad():
        dict(net.state_dict())[name].view(-1)[0] = value
    return net


def onnx_file(net, path) -> None:
    """The same network, its tensors by name."""
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "4.weight", "4.bias")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", *names[:2]], ["c"]),
            helper.make_node("BatchNormalization", ["c", *names[2:6]], ["b"]),
            helper.make_node("GlobalAveragePool", ["b"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", *names[6:]], ["y"], transB=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(net.state_dict()[name].numpy(), name) for name in names],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def save(net, path) -> list[str]:
    """Write a source; the options that name it."""
    if path.suffix == ".safetensors":
        save_file(net.state_dict(), path)
    elif path.suffix == ".th":
        torch.save(net.state_dict(), path)
    elif path.suffix == ".pt2":
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=shapes), path)
    elif path.suffix == ".pt":
        torch.jit.trace(net, torch.zeros(1, 3, 8, 8)).save(str(path))
    else:
        onnx_file(net, path)
    if path.suffix in (".safetensors", ".th"):
        return ["model=factory", "model.factory=own_nets:network", "trust=[own_nets]", f"model.checkpoint={path}"]
    return ["model=file", f"model.path={path}"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def network():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(4, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    random = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", images=random.integers(0, 255, (60, 8, 8, 3), np.uint8), labels=np.arange(60) % 3)
    data = ["data=npz", f"data.file={tmp_path / 'd.npz'}", "data.calibration=8", "data.validation=8"]
    output = tmp_path / "out"

    def compress(model: list[str]):
        given = ["target=raspberry_pi_4", *data, "data.evaluation=8", f"output={output}", "model.input.shape=[3,8,8]"]
        code = main([*given, "measure=quick", "-q", *model])
        stored = [path for path in output.rglob("*") if path.is_file()]
        return code, capsys.readouterr().err, stored

    yield compress
    sys.modules.pop("own_nets", None)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("suffix", [".th", ".safetensors", ".pt2", ".pt", ".onnx"])
def test_file_and_tensor_are_named_and_nothing_is_stored(run, tmp_path, suffix, fault):
    path = tmp_path / f"net{suffix}"
    code, errors, stored = run(save(broken(fault), path))
    name, _, what = FAULTS[fault]
    assert code == 2
    assert errors.startswith(f"error: {path}: the model's tensor {name} holds 1 {what}, of ")
    assert errors.count("\n") == 1
    assert stored == []


def test_a_tflite_file_is_no_source_and_nothing_is_stored(run, tmp_path):
    (tmp_path / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 100)
    code, errors, stored = run(["model=file", f"model.path={tmp_path / 'net.tflite'}"])
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: ")
    assert stored == []


@pytest.mark.parametrize("suffix", [".th", ".onnx"])
def test_finite_weights_whose_answers_are_no_numbers_are_told_and_nothing_is_stored(run, tmp_path, suffix):
    net = network().eval()
    with torch.no_grad():
        net[0].weight.fill_(3e38)
        net[1].weight.view(-1)[::2] *= -1
    code, errors, stored = run(save(net, tmp_path / f"net{suffix}"))
    assert (code, errors.count("\n")) == (2, 1)
    assert "answer for an image of noise holds values that are not numbers (NaN)" in errors
    assert stored == []
