"""`python -m compress.device.preflight`: any file is described and predicted, and none ends in a traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from compress.device.preflight.__main__ import main
from compress.device.preflight.contents import examine
from compress.formats.tflite.flatbuffer import pack


@pytest.fixture
def file(build, tmp_path):
    """A float CAST in front, a convolution, a LEAKY_RELU and a RELU behind it."""
    given = build.tensor([1, 8, 8, 4], kind="FLOAT32", name="image")
    inner = build.tensor([1, 8, 8, 4])
    weight = build.tensor([4, 1, 1, 4], constant=np.ones((4, 1, 1, 4), np.int8), scale=[0.1] * 4, zero_point=0)
    bias = build.tensor([4], kind="INT32", constant=np.zeros(4, np.int32))
    steps = [build.tensor([1, 8, 8, 4]) for _ in range(2)]
    taken = build.tensor([1, 8, 8, 4], name="\x1b[31mlogits")
    build.operator("QUANTIZE", 1, [given], [inner])
    build.operator("CONV_2D", 3, [inner, weight, bias], [steps[0]], "Conv2DOptions", strideW=1, strideH=1)
    build.operator("LEAKY_RELU", 2, [steps[0]], [steps[1]], "LeakyReluOptions", alpha=0.1)
    build.operator("RELU", 2, [steps[1]], [taken])
    path = tmp_path / "net.tflite"
    path.write_bytes(pack(build.interface(given, taken)))
    return path


def test_a_file_is_described_and_predicted(file):
    found = examine(file)
    assert found.operators == {"QUANTIZE": 1, "CONV_2D": 1, "LEAKY_RELU": 1, "RELU": 1}
    assert (found.prediction.mapped, found.prediction.operators) == (1, 4)
    text = "\n".join(found.lines())
    assert "input   'image' float32 [1, 8, 8, 4]\n" in text
    assert r"output  '\x1b[31mlogits' int8 [1, 8, 8, 4], real = 0.5 (stored - -128)" in text
    assert "Edge TPU: predicted: 1 of 4 operators mapped; on the CPU in front: QUANTIZE; breaks at operator 2" in text
    assert "    operator 2 LEAKY_RELU: not supported by the Edge TPU; use PRELU with one slope" in text


def test_the_command_and_its_json(file):
    done = subprocess.run(
        [sys.executable, "-m", "compress.device.preflight", "--json", "--runtime", "13", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    (document,) = json.loads(done.stdout)["files"]
    assert document["prediction"]["mapped"] == 1
    assert document["in_float"] == 0


def test_a_compiled_file_is_told_apart(build, tmp_path):
    given, taken = build.tensor([1, 8]), build.tensor([1, 8])
    build.operator("CUSTOM", 1, [given], [taken])
    build.model.operatorCodes[0].customCode = b"edgetpu-custom-op"
    path = tmp_path / "net_edgetpu.tflite"
    path.write_bytes(pack(build.interface(given, taken)))
    found = examine(path)
    assert (found.compiled, found.prediction) == (1, None)
    assert "compiled for it already, 1 part; 0 operators are left to the CPU" in found.lines()[-1]


@pytest.mark.parametrize("content", [None, b"", b"\x1c\0\0\0TFL3", b"not a model" * 100])
def test_a_file_that_is_none_is_one_line(tmp_path, capsys, content):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    path = tmp_path / "x.tflite"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_wrong_request_is_one_line(capsys):
    assert main(["--runtime", "9", "x.tflite"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: argument --runtime: invalid choice: 9")


@pytest.mark.real_data
def test_every_real_file_is_read(shared_data, capsys):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    folder = shared_data / "tflite" / "coral"
    files = sorted(map(str, folder.glob("*.tflite")))
    assert main(files) == 0
    out = capsys.readouterr().out
    assert "predicted: 31 of 31 operators mapped" in out
    assert out.count("compiled for it already") == sum(name.endswith("_edgetpu.tflite") for name in files)
    assert main([str(folder / "invalid_models" / "model_invoking_error.tflite")]) == 2
    assert "it refers to something it does not hold" in capsys.readouterr().err
