"""However a command ends, there is one line and the right exit code."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from doubles import ROOT

from compress.core.errors import ConfigError, StageError
from compress.support.command import INTERRUPTED, run_command

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def raised(error: BaseException):
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "line"),
    [
        (lambda: 0, 0, ""),
        (raised(ConfigError("x", fix="y")), 2, "error: x | fix: y\n"),
        (raised(StageError("a\nb")), 1, "error: a\\nb\n"),
        (raised(KeyboardInterrupt()), INTERRUPTED, "interrupted, go on\n"),
        (raised(MemoryError()), 1, "error: out of memory | fix: a smaller model or fewer images; see ulimit -v\n"),
        (lambda: signal.raise_signal(signal.SIGINT), INTERRUPTED, "interrupted, go on\n"),
    ],
)
def test_every_end_has_its_line_and_code(capsys, work, code, line):
    assert run_command(work, ", go on") == code
    assert capsys.readouterr().err == line


def swallow_an_interrupt() -> int:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("initialization failed") from None
    return 0


def test_an_interrupt_that_an_import_makes_an_error_of_is_an_interrupt(capsys):
    assert run_command(swallow_an_interrupt) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ImportError):  # nobody pressed anything this time
        run_command(raised(ImportError("initialization failed")))


@pytest.mark.parametrize("arguments", [["compress", "--version"], ["compress", "--help"]])
def test_standard_output_on_a_full_disk(tmp_path, arguments):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write: standard output: No space left on device | fix: free disk space\n"


def test_a_pipe_that_nobody_reads_is_no_traceback(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "compress", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_too_little_address_space_for_the_libraries(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "compress", "target=raspberry_pi_4"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the address space is limited to 0.4 GiB (ulimit -v), and torch")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["compress", "compress.report", "compress.cache"])
def test_a_deleted_working_folder(tmp_path, module):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m {module} x"
    done = subprocess.run(["sh", "-c", script], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: the working folder was deleted | fix: cd to a folder that exists"
    assert "Traceback" not in done.stderr
