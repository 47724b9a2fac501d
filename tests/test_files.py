"""Files are whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compress.errors import StageError
from compress.files import (
    atomic_path,
    copy_file,
    inside,
    remove_stale_temporaries,
    sha256_file,
    write_bytes,
    write_json,
)


def test_write_replaces_the_old_content_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_failure_while_writing_keeps_the_old_content(tmp_path):
    path = tmp_path / "model.onnx"
    write_bytes(path, b"whole")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"ha")
            raise RuntimeError("exporter broke")

    with pytest.raises(RuntimeError, match="exporter broke"):
        write_half()
    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_the_temporary_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / "model.onnx") as temporary:
        assert temporary.suffix == ".onnx"
        temporary.write_bytes(b"x")


def test_an_unwritable_place_names_the_path_and_the_fix(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StageError, match=r"cannot write .*file/model.onnx.*fix: .*output=<folder>"):
        write_bytes(tmp_path / "file" / "model.onnx", b"x")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    script = (
        "import resource, signal, pathlib, sys\n"
        "from compress.files import write_bytes\n"
        "from compress.errors import StageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_bytes(pathlib.Path(sys.argv[1]), bytes(5000))\n"
        "except StageError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.bin")], capture_output=True, text=True)
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_numbers_that_json_has_not(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"sqnr": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_of_the_content(tmp_path):
    write_bytes(tmp_path / "a", b"abc")
    copy_file(tmp_path / "a", tmp_path / "b")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b") == expected


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x"])
def test_names_from_a_manifest_stay_inside(tmp_path, name):
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(StageError, match="leaves the folder"):
        inside(tmp_path, name)


def test_only_temporaries_of_dead_processes_are_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / f".tmp-{int(dead.stdout)}-model.onnx").write_bytes(b"half")
    (tmp_path / f".tmp-{int(dead.stdout)}-folder").mkdir()
    alive = tmp_path / f".tmp-{os.getpid()}-model.onnx"
    alive.write_bytes(b"being written")
    remove_stale_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [alive]
