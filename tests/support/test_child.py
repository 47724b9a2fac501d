"""Programs that are started end when the process that started them does, however that is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from doubles import ROOT

from compress.core.errors import ConfigError
from compress.device.courier_link import CourierLink
from compress.device.transport import LocalTransport, SshTransport
from compress.support.child import child_environment, find_program, run_child

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the states of processes from /proc")

PARENT = """
import sys
from compress.support.child import child_environment, find_program, run_child
from compress.support.signals import orderly_exit
with orderly_exit():
    run_child(sys.argv[1:])
"""
SLEEPS = "sleep 60 & echo $! > grandchild; echo $$ > child; wait"


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between two looks
        return False


def wait_for(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def numbers(folder: Path) -> list[int]:
    files = [folder / "child", folder / "grandchild"]
    assert wait_for(lambda: all(file.exists() and file.read_text().strip() for file in files))
    return [int(file.read_text()) for file in files]


@pytest.mark.parametrize(
    ("number", "code", "deaf"),
    [
        (signal.SIGKILL, -9, ""),
        (signal.SIGTERM, 143, ""),
        (signal.SIGHUP, 129, ""),
        (signal.SIGKILL, -9, "trap '' TERM; "),
    ],
    ids=["kill", "term", "hup", "kill, and the child ignores TERM"],
)
def test_the_child_and_its_children_end_with_us(tmp_path, number, code, deaf):
    command = [sys.executable, "-c", PARENT, "sh", "-c", deaf + SLEEPS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, cwd=tmp_path, env=environment)
    started = numbers(tmp_path)
    assert all(map(alive, started))
    parent.send_signal(number)
    assert parent.wait(timeout=20) == code
    assert wait_for(lambda: not any(map(alive, started)))


def test_output_and_code_come_through(tmp_path):
    done = run_child(["sh", "-c", "echo out; echo err >&2; pwd; exit 3"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"out\n{tmp_path}\n", "err\n")
    assert run_child(["sh", "-c", "echo out; echo err >&2"], merged=True).stdout == "out\nerr\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_signal_that_ended_it_is_told(number):
    assert run_child(["sh", "-c", f"kill -{int(number)} $$"]).returncode == -number


def test_what_cannot_be_started_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_child([str(tmp_path / "none")])
    (tmp_path / "text").write_text("no program")
    with pytest.raises(PermissionError):
        run_child([str(tmp_path / "text")])


def test_past_its_time_it_is_ended_and_its_words_are_kept(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired) as late:
        run_child(["sh", "-c", f"echo working; {SLEEPS}"], cwd=tmp_path, timeout=0.5)
    assert late.value.output == "working\n"
    assert wait_for(lambda: not any(map(alive, numbers(tmp_path))))


@pytest.fixture
def download(tmp_path, monkeypatch) -> Path:
    """A folder that the user stands in, with programs and modules that leave a marker beside it when they run."""
    folder = tmp_path / "download"
    folder.mkdir()
    for name in ("ssh", "docker"):
        (folder / name).write_text(f"#!/bin/sh\n: > {tmp_path / 'marker'}\n")
        (folder / name).chmod(0o755)
    for name in ("sitecustomize", "numpy"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("relative", ["", ".", "download/.."])
def test_no_program_is_taken_from_the_folder_the_user_is_in(tmp_path, download, monkeypatch, relative):
    monkeypatch.setenv("PATH", os.pathsep.join([relative, str(tmp_path / "absent")]))
    assert find_program("ssh") is None
    assert find_program("docker") is None
    assert child_environment()["PATH"] == str(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        run_child(["ssh"])
    with pytest.raises(ConfigError, match="the program 'ssh' is not installed here"):
        SshTransport("pi@host").open()
    assert not (tmp_path / "marker").exists()


def test_a_path_of_relative_folders_only_is_the_systems(download, monkeypatch):
    """An empty PATH would mean the working folder to POSIX."""
    monkeypatch.setenv("PATH", ".")
    assert child_environment()["PATH"] == os.defpath


def test_no_module_is_taken_from_a_relative_folder(tmp_path, download, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(tmp_path / "mine"), "."]))
    assert child_environment()["PYTHONPATH"] == str(tmp_path / "mine")
    run_child([sys.executable, "-c", "pass"])
    with CourierLink(LocalTransport()) as link:
        link.hello()
    assert not (tmp_path / "marker").exists()
