"""The agent on the oldest system it meets: Python 3.6 and numpy 1.13.3, with a real runtime of that time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_factory import make_bundle, run_agent
from platformdirs import user_cache_path

from compress.device.bundle_agent import AGENT

# ONNX Runtime 1.1.2 is the newest that loads beside numpy 1.13.3; 1.2 and later need numpy 1.16's internals.
WHEELS = ("numpy==1.13.3", "onnxruntime==1.1.2")
OPSET = 11  # the newest that ONNX Runtime 1.1.2 reads


@pytest.fixture(scope="session")
def python36() -> str:
    candidates = [shutil.which("python3.6"), *Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6")]
    found = next((str(path) for path in candidates if path and answers(str(path))), None)
    if found is None:
        pytest.skip("no Python 3.6 is installed here")
    return found


def answers(python: str) -> bool:
    """A pyenv shim exists for every version and fails for those not selected."""
    return subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def old_site() -> Path:
    """A folder with the old wheels, fetched once."""
    folder = user_cache_path("edge-compress") / "tests" / "py36"
    if not (folder / "onnxruntime").is_dir():
        platforms = ("manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64")
        only = ["--only-binary=:all:", "--no-deps", "--python-version=3.6", "--implementation=cp", "--abi=cp36m"]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *only]
        done = subprocess.run(
            [*command, *(f"--platform={name}" for name in platforms), *WHEELS],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"the wheels {WHEELS} cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    return folder


def test_the_agent_runs_under_python_36_with_numpy_113(tmp_path, python36, old_site):
    if os.uname().machine != "x86_64":
        pytest.skip("the wheels are for x86_64")
    bundle = make_bundle(tmp_path, opset=OPSET)
    environment = {**os.environ, "PYTHONPATH": str(old_site)}
    done = run_agent(bundle, "--any-device", "--seconds", "0.3", python=python36, environment=environment)
    assert done.code == 0, done.out + done.err
    assert done.result["device"]["python"].startswith("3.6.")
    assert done.result["device"]["numpy"] == "1.13.3"
    for row in done.result["results"]:
        assert row["runtime"] == "onnxruntime 1.1.2"
        assert row["golden"]["passed"]
        assert row["latency"]["median_ms"] > 0


def test_a_runtime_of_that_time_refuses_a_new_opset_in_one_line(tmp_path, python36, old_site):
    bundle = make_bundle(tmp_path, opset=17)
    environment = {**os.environ, "PYTHONPATH": str(old_site)}
    done = run_agent(bundle, "--any-device", "--threads", "1", python=python36, environment=environment)
    assert done.code == 1
    assert "onnxruntime 1.1.2 is too old for opset 17" in done.out
    assert "Traceback" not in done.err


def test_what_runs_on_a_device_needs_no_newer_language():
    vermin = Path(sys.executable).with_name("vermin")
    if not vermin.exists():
        pytest.skip("vermin is not installed; it is in the dev extra")
    done = subprocess.run(
        [str(vermin), "-t=3.6-", "--no-tips", str(AGENT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
