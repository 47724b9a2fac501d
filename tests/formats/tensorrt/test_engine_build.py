"""Building an engine here with the device's own program: as a child, which imports nothing from the user's folder."""

from __future__ import annotations

import pytest
from doubles import ROOT

from compress.core.artifact import Precision
from compress.core.errors import StageError
from compress.formats.tensorrt.build import build_engine
from compress.formats.tensorrt.plan import EnginePlan

STANDIN = ROOT / "tests" / "device" / "standin"
PLAN = EnginePlan("net.onnx", "0" * 64, Precision.FP16, (1, 8, 32), 256, None, False, "TensorRT 8.2.1")


def test_the_builders_own_reason_is_the_error(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text("raise ImportError('No module named tensorrt')")
    with pytest.raises(StageError, match="tensorrt cannot be imported: No module named tensorrt"):
        build_engine(PLAN, tmp_path / "net.onnx", tmp_path / "net.engine")


def test_no_module_of_the_users_folder_is_imported(tmp_path, monkeypatch):
    folder, marker = tmp_path / "download", tmp_path / "marker"
    folder.mkdir()
    for name in ("compress", "argparse", "json", "numpy", "tensorrt", "agent"):
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()")
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(STANDIN))
    with pytest.raises(StageError, match=r"CUDA driver|a stand-in builds nothing"):
        build_engine(PLAN, tmp_path / "net.onnx", tmp_path / "net.engine")
    assert not marker.exists()
