"""Packing for a GPU machine without network: parts that fit, whole again on the other side, damage noticed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

import pytest
from doubles import ROOT

SCRIPTS = ROOT / "scripts"


def module(path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location(f"tested_{path.stem.strip('_')}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def packing(monkeypatch):
    return module(SCRIPTS / "pack_tensorrt" / "__main__.py", monkeypatch)


@pytest.fixture
def unpacking(monkeypatch):
    return module(SCRIPTS / "pack_tensorrt" / "unpack.py", monkeypatch)


def test_parts_are_cut_to_size_and_join_again(packing, unpacking, tmp_path):
    content = bytes(range(256)) * 1000
    (tmp_path / "big").write_bytes(content)
    names = packing.write_parts([tmp_path / "big"], tmp_path / "parts", 100_000)
    assert names == ["part-00", "part-01", "part-02"]
    assert all((tmp_path / "parts" / name).stat().st_size <= 100_000 for name in names)
    (tmp_path / "there").mkdir()
    unpacking.join(tmp_path / "parts", tmp_path / "there")
    assert (tmp_path / "there" / "big").read_bytes() == content


def test_a_damaged_part_is_named(packing, unpacking, tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 1000)
    packing.write_parts([tmp_path / "big"], tmp_path / "parts", 4000)
    with (tmp_path / "parts" / "part-01").open("r+b") as stream:
        stream.write(b"?")
    (tmp_path / "there").mkdir()
    with pytest.raises(SystemExit, match="part-01 is damaged; carry it again"):
        unpacking.join(tmp_path / "parts", tmp_path / "there")


def test_standins_let_a_library_load_whose_functions_fail_when_called(monkeypatch, tmp_path):
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        pytest.skip("no C compiler is here")
    standins = module(SCRIPTS / "pack_tensorrt" / "standins.py", monkeypatch)
    source = tmp_path / "real.c"
    source.write_text("int cublasCreate_v2(void) { return 0; }\n")
    version = tmp_path / "real.map"
    version.write_text("libcublas.so.11 { global: *; };\n")
    flags = ["-shared", "-fPIC", "-Wl,-soname,libcublas.so.11", f"-Wl,--version-script={version}"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "libcublas.so.11", source], check=True)
    user = tmp_path / "plugin.c"
    user.write_text("int cublasCreate_v2(void); int start(void) { return cublasCreate_v2(); }\n")
    plugin = tmp_path / "libplugin.so"
    link = ["-shared", "-fPIC", "-Wl,-rpath,$ORIGIN", str(tmp_path / "libcublas.so.11")]
    subprocess.run(["gcc", "-o", plugin, user, *link], check=True)
    (tmp_path / "libcublas.so.11").unlink()
    assert standins.build_standins(plugin, tmp_path) == {"libcublas.so.11": 1}
    script = f"import ctypes; print(ctypes.CDLL({str(plugin)!r}).start())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == standins.NOT_SUPPORTED
