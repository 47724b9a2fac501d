"""Killed at any point, a run leaves nothing truncated and can be continued to the same result."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, compress, rows, run_folders

COMMAND = [
    sys.executable,
    "-m",
    "compress",
    "target=raspberry_pi_4",
    "measure.latency_seconds=0.2",
    "data.evaluation=100",
]


def start(cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        COMMAND,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that started the tests in the background made them, and so this process, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def artifact_digest(run: Path) -> str:
    return hashlib.sha256((run / "to_onnx.onnx").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    done = compress(*COMMAND[3:], cwd=folder)
    assert done.code == 0, done.err
    (run,) = run_folders(folder / "outputs")
    return run, time.monotonic() - started


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_times_then_continued(uninterrupted, tmp_path, kills):
    whole, seconds = uninterrupted
    generator = random.Random(kills)
    for _ in range(kills):
        process = start(tmp_path)
        time.sleep(generator.uniform(0.2, 0.95) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for run in run_folders(tmp_path / "outputs"):
            checked_manifest(run)
    done = compress(*COMMAND[3:], "resume=true", cwd=tmp_path)
    assert done.code == 0, done.err
    run = run_folders(tmp_path / "outputs")[-1]
    checked_manifest(run)
    assert artifact_digest(run) == artifact_digest(whole)
    for stage, row in rows(run).items():
        assert row["accuracy"] == rows(whole)[stage]["accuracy"]
        assert row["fidelity"] == rows(whole)[stage]["fidelity"]
    assert not list((tmp_path / "outputs").rglob(".tmp-*"))


def test_a_damaged_stored_file_is_made_again(uninterrupted):
    whole, _ = uninterrupted
    (stored,) = whole.parents[1].glob(".cache/stages/*/to_onnx.onnx")
    stored.write_bytes(stored.read_bytes()[:-100])
    done = compress(*COMMAND[3:], cwd=whole.parents[2])
    assert done.code == 0, done.err
    again = run_folders(whole.parents[1])[-1]
    assert artifact_digest(again) == artifact_digest(whole)
    assert (
        not rows(again)["to_onnx"]["reused"]
        or rows(again)["to_onnx"]["size_bytes"] == rows(whole)["to_onnx"]["size_bytes"]
    )


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_term_have_their_codes_and_leave_no_temporary(tmp_path, number, code, word):
    process = start(tmp_path)
    time.sleep(6)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.strip().splitlines()[-1].startswith(word)
    assert "Traceback" not in err
    assert not list((tmp_path / "outputs").rglob(".tmp-*")) if (tmp_path / "outputs").exists() else True
    assert run_folders(tmp_path / "outputs") == [] if (tmp_path / "outputs").exists() else True


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_an_output_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "outputs").write_text("not a folder")
    done = compress(*COMMAND[3:], cwd=tmp_path)
    assert done.code == 1
    assert "cannot write" in done.err
    assert "output=<folder>" in done.err
    assert "Traceback" not in done.err
