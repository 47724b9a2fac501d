"""A wheel works from any directory: the configurations and device profiles travel in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from doubles import ROOT

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, compress, run_folders


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A new environment with the wheel installed; its dependencies are read from this one to save 7 GB."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, ROOT],
        check=True,
    )
    (wheel,) = folder.glob("edge_compress-*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_installed_wheel_runs_in_an_empty_folder(installed, tmp_path):
    where = subprocess.run(
        [installed, "-c", "import compress; print(compress.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert str(ROOT) not in where.stdout
    done = compress(
        "target=jetson_nano", "measure.latency_seconds=0.2", cwd=tmp_path, python=str(installed), PYTHONPATH=""
    )
    assert done.code == 0, done.err
    (run,) = run_folders(tmp_path / "outputs")
    checked_manifest(run)
