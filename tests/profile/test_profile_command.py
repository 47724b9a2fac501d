"""`python -m compress.profile` as a user types it: what it prints and writes, and one line for what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from doubles import ROOT
from small_models import large_product, save, tiny_operators
from torch import nn

from compress.profile.__main__ import main
from compress.support.scratch import scratch_folder


@pytest.fixture
def run_folder(tmp_path):
    """A finished run with two ONNX files, the later one with the longer history."""
    folder = tmp_path / "run"
    folder.mkdir()
    files = []
    for name, history in (("to_onnx_fp32", ["fold"]), ("to_onnx", ["fold", "magnitude", "ptq"])):
        path = tiny_operators(folder / f"{name}.onnx", 10 * len(history))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        record = {"path": path.name, "sha256": digest, "size_bytes": 1, "stage": name, "history": [*history, name]}
        files.append({**record, "format": "onnx", "precision": "fp32"})
    spec = {"shape": [3, 8, 8], "channel_order": "rgb", "mean": [0, 0, 0], "std": [1, 1, 1]}
    (folder / "manifest.json").write_text(json.dumps({"input": spec, "files": files}))
    return folder


def test_a_file_is_profiled_and_written(tmp_path, capsys):
    path = large_product(tmp_path / "gemm.onnx", 256)
    code = main([str(path), "--seconds", "0.5", "--output", str(tmp_path / "out")])
    printed = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert "gemm.onnx" in printed
    assert "bottleneck: compute" in printed
    document = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert document["file"] == "gemm.onnx"
    assert document["layers"][0]["operations"] == 2 * 256**3
    assert json.loads((tmp_path / "out" / "trace.json").read_text())["traceEvents"]


def test_a_run_is_its_newest_file_and_two_can_be_compared(run_folder, capsys):
    earlier = run_folder / "to_onnx_fp32.onnx"
    assert main([str(run_folder), "--against", str(earlier), "--seconds", "0.5", "--target", "raspberry_pi_4"]) == 0
    printed = capsys.readouterr()
    assert "the file of stage to_onnx, to_onnx.onnx" in printed.err
    assert "published for the target: 58 GFLOPS, 12.8 GB/s" in " ".join(printed.out.split())
    assert "to_onnx_fp32.onnx → to_onnx.onnx" in printed.out


def test_stored_profiles_are_shown_and_compared_without_measuring(tmp_path, capsys):
    path = tiny_operators(tmp_path / "tiny.onnx", 12)
    assert main([str(path), "--seconds", "0.5", "--output", str(tmp_path)]) == 0
    stored = str(tmp_path / "profile.json")
    capsys.readouterr()
    assert main([stored, "--against", stored]) == 0
    assert "1.00 of the time" in capsys.readouterr().out


def test_a_pytorch_file(tmp_path, capsys):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    assert main([str(tmp_path / "net.pt2"), "--input", "3,8,8", "--seconds", "0.3"]) == 0
    assert "Conv2d" in capsys.readouterr().out
    assert main([str(tmp_path / "net.pt2"), "--input", "5,8,8"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the model fails on the declared input (1, 5, 8, 8)")
    assert "fix: --input C,H,W" in error
    assert "channels" in error


def fails(capsys, *arguments, fix=" | fix: "):
    code = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert fix in error
    return code, error


def test_wrong_requests_are_one_line_and_exit_2(tmp_path, capsys):
    good = tiny_operators(tmp_path / "tiny.onnx", 3)
    text = tmp_path / "text.onnx"
    text.write_text("not a model")
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    engine = tmp_path / "net.engine"
    engine.write_bytes(b"x")
    lite = tmp_path / "net.tflite"
    lite.write_bytes(b"x")
    (tmp_path / "strange.xyz").write_bytes(b"x")
    cases = [
        ((tmp_path / "absent.onnx",), "does not exist"),
        ((text,), "is not an ONNX file"),
        ((empty,), "is not an ONNX file"),
        ((cut,), "is not an ONNX file"),
        ((tmp_path / "strange.xyz",), "no suffix of a model"),
        ((lite,), "whole calls only"),
        ((engine,), "whose limits are not measured here"),
        ((tmp_path,), "is no run folder"),
        ((good, "--runtime", "tvm"), "'tvm' does not profile onnx"),
        ((good, "--target", "raspbery_pi_4"), "did you mean 'raspberry_pi_4'"),
        ((good, "--threads", "0"), "is not 1 or more"),
        ((good, "--batch", "7"), "not batch 7"),
        ((good, "--input", "3,224"), "C,H,W"),
        ((good, "--seconds", "nan"), "is not a time"),
        (
            (
                good,
                "--no-such-flag",
            ),
            "no-such-flag",
        ),
        ((), "FILE_OR_RUN"),
    ]
    for arguments, words in cases:
        code, error = fails(capsys, *arguments)
        assert code == 2, error
        assert words in error


def test_a_graph_that_does_not_run_exits_1(tmp_path, capsys):
    from onnx import helper

    path = save(tmp_path / "net.onnx", [helper.make_node("NoSuchOp", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
    assert fails(capsys, path, fix=f"cannot load {path}")[0] == 1


def test_a_run_that_was_tampered_with_is_refused(run_folder, capsys):
    path = run_folder / "to_onnx.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    assert "is not the file that the manifest" in fails(capsys, run_folder)[1]
    (run_folder / "manifest.json").write_text("{")
    assert "is damaged" in fails(capsys, run_folder)[1]


def test_a_manifest_cannot_point_outside_its_run(run_folder, capsys):
    manifest = (run_folder / "manifest.json").read_text().replace("to_onnx.onnx", "../../etc/passwd")
    (run_folder / "manifest.json").write_text(manifest)
    code = main([str(run_folder)])
    assert code in (1, 2)
    assert "leaves the folder" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_profile_that_is_ended_leaves_nothing_or_what_the_next_one_removes(tmp_path, number, code):
    path = tiny_operators(tmp_path / "tiny.onnx", 12)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "compress.profile", str(path), "--seconds", "60"]
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not list(scratch.glob(".tmp-*/*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert list(scratch.glob(".tmp-*/*")), "it has begun"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    if number == signal.SIGKILL:
        with scratch_folder(scratch):
            pass
    assert list(scratch.iterdir()) == []
