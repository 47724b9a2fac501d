"""Unfinished work belongs to one living writer; what a dead one left is removed, what a living one writes never is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.support import scratch
from compress.support.files import write_bytes
from compress.support.scratch import locked, remove_stale, scratch_folder

WRITER = """
import os, sys, time
from pathlib import Path
os.getpid = lambda: int(sys.argv[2])
from compress.support.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "model.onnx").write_bytes(b"half")
    print(folder.name, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that writes into a scratch folder and says that it has our own number."""
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(os.getpid())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, tmp_path / process.stdout.readline().strip()
    process.kill()
    process.communicate()


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for one in (*path.iterdir(), path) if path.is_dir() else (path,):
        os.utime(one, (then, then))


def test_what_a_living_writer_has_open_is_never_removed(writer, tmp_path):
    _, folder = writer
    age(folder, 10 * scratch._STALE_SECONDS)
    remove_stale(tmp_path)
    write_bytes(tmp_path / "other", b"x")
    assert (folder / "model.onnx").read_bytes() == b"half"


def test_what_a_dead_writer_left_is_gone_with_the_next_write_there(writer, tmp_path):
    process, folder = writer
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.exists()
    write_bytes(tmp_path / "other", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("locks", [True, False])
def test_elsewhere_and_without_locks_age_decides(tmp_path, monkeypatch, locks):
    name = f".tmp-{scratch._kernel()}-0123456789abcdef" if not locks else ".tmp-00000000-0123456789abcdef"
    if not locks:
        monkeypatch.setattr(scratch, "_lock", lambda descriptor, wait: None)
    folder = tmp_path / name
    write_bytes(folder / "model.onnx", b"half")
    remove_stale(tmp_path)
    assert folder.exists()
    age(folder, scratch._STALE_SECONDS + 60)
    (folder / "model.onnx").touch()
    remove_stale(tmp_path)
    assert folder.exists(), "something in it changed today"
    age(folder, scratch._STALE_SECONDS + 60)
    remove_stale(tmp_path)
    assert not folder.exists()


def test_what_earlier_releases_left_goes_by_age(tmp_path):
    for path in (tmp_path / ".tmp-123-model.onnx", tmp_path / ".tmp-9-young"):
        path.write_bytes(b"half")
    age(tmp_path / ".tmp-123-model.onnx", scratch._STALE_SECONDS + 60)
    remove_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-9-young"]


def test_a_link_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    write_bytes(outside / "precious", b"x")
    (tmp_path / "in").mkdir()
    link = tmp_path / "in" / f".tmp-{scratch._kernel()}-0123456789abcdef"
    link.symlink_to(outside)
    remove_stale(tmp_path / "in")
    assert (outside / "precious").exists()


def test_only_one_folder_is_looked_at(tmp_path, monkeypatch):
    for number in range(50):
        (tmp_path / f"{number}").mkdir()
    looked: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or scandir(path))
    remove_stale(tmp_path)
    assert looked == [tmp_path]


def test_a_scratch_folder_is_private_and_gone_afterwards(tmp_path):
    with scratch_folder(tmp_path) as folder:
        (folder / "a" / "b").mkdir(parents=True)
        assert folder.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


def test_scratch_of_profiles_lies_where_the_system_wants_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as folder:
        assert folder.parent == tmp_path


def test_a_lock_is_held_by_one_and_told_to_the_next(tmp_path):
    script = (
        "import sys; from pathlib import Path; from compress.support.scratch import locked\n"
        "with locked(Path(sys.argv[1]), lambda: print('busy', flush=True)):\n    print('in', flush=True)\n"
    )
    with locked(tmp_path, lambda: pytest.fail("nobody else is there")):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
    assert process.communicate(timeout=10)[0] == "in\n"
