"""Files are whole or absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compress.core.errors import StageError
from compress.support.files import (
    assemble,
    atomic_path,
    copy_file,
    copy_new,
    inside,
    new_folder,
    sha256_file,
    write_bytes,
    write_in_order,
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
        "from compress.support.files import write_bytes\n"
        "from compress.core.errors import StageError\n"
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


DELIVER = """
import os, sys
from pathlib import Path
os.getpid = lambda: 7  # as in containers, where every first process has the same number
from compress.support.files import assemble, write_bytes

def fill(folder):
    for number in range(3):
        write_bytes(folder / f"{number}.bin", sys.argv[2].encode() * 50_000)

for _ in range(int(sys.argv[3])):
    print(assemble(Path(sys.argv[1]), "2026-01-01_00-00-00", fill).name)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_many_processes_with_one_number_deliver_whole_and_distinct_folders(tmp_path):
    processes = {letter: start(DELIVER, tmp_path / "out", letter, 25) for letter in "abcdefgh"}
    named = {}
    for letter, process in processes.items():
        out, err = process.communicate(timeout=60)
        assert err == ""
        named |= dict.fromkeys(out.split(), letter)
    assert len(named) == 8 * 25
    assert set(named) == {path.name for path in (tmp_path / "out").iterdir()}
    for name, letter in named.items():
        contents = [path.read_bytes() for path in sorted((tmp_path / "out" / name).iterdir())]
        assert contents == [letter.encode() * 50_000] * 3


def test_an_existing_folder_is_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()  # an empty one, which a rename would replace
    (tmp_path / "run-2").write_text("a file")
    made = assemble(tmp_path, "run", lambda folder: write_bytes(folder / "a", b"a"))
    assert made == tmp_path / "run-3"
    assert list((tmp_path / "run").iterdir()) == []
    assert (tmp_path / "run-2").read_text() == "a file"


def test_a_folder_that_cannot_be_filled_leaves_nothing(tmp_path):
    def fill(folder: Path) -> None:
        write_bytes(folder / "half", b"x")
        raise StageError("a stage broke")

    with pytest.raises(StageError, match="a stage broke"):
        assemble(tmp_path / "out", "run", fill)
    assert list((tmp_path / "out").iterdir()) == []


def test_new_folders_are_nobody_elses(tmp_path):
    assert [new_folder(tmp_path / "a" / "log").name for _ in range(3)] == ["log", "log-2", "log-3"]


@pytest.mark.parametrize("other", ["a.onnx", "A.ONNX"])
def test_a_copy_into_a_run_never_takes_the_place_of_another_file(tmp_path, other):
    write_bytes(tmp_path / "from", b"new")
    write_bytes(tmp_path / "to" / other, b"first")
    with pytest.raises(StageError, match=r"two files of this run are called a.onnx.*fix: give one of the stages"):
        copy_new(tmp_path / "from", tmp_path / "to" / "a.onnx")
    assert (tmp_path / "to" / other).read_bytes() == b"first"


def test_files_that_belong_together_are_whole_before_the_first_gets_its_name(tmp_path):
    folder = tmp_path / "run"
    write_bytes(folder / "a", b"old")
    with pytest.raises(StageError, match="cannot write"):
        write_in_order(folder, [("a", b"new"), ("missing/b", b"new")])
    write_in_order(folder, [("a", b"1"), ("b", b"2"), ("a", b"3")])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"3", "b": b"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
