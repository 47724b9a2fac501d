"""Nothing that lies in the folder the user happens to be in is imported, except what the user names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from doubles import ROOT

from compress.support.working_folder import leave_working_folder, trust_working_folder

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LURE = "import os, sys\nopen(os.path.join(os.path.dirname(__file__), 'ran-' + __name__), 'w').close()\nsys.exit(9)\n"
LURED = (
    "__future__",
    "argparse",
    "json",
    "numpy",
    "pathlib",
    "platformdirs",
    "pydantic",
    "rich",
    "threading",
    "torch",
    "typing",
    "yaml",
)


@pytest.fixture
def strange(tmp_path) -> Path:
    """A download with files that are called as modules are, and a plug-in for Hydra."""
    for name in LURED:
        (tmp_path / f"{name}.py").write_text(LURE)
    (tmp_path / "hydra_plugins" / "lure").mkdir(parents=True)
    (tmp_path / "hydra_plugins" / "lure" / "__init__.py").write_text(LURE)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "target=jetson_nano", "--cfg"],
        ["compress.cache", "."],
        ["compress.report", "."],
        ["compress.device", "verify", "--bundle", "."],
        ["compress.profile", "absent.onnx"],
        ["compress.device.preflight", "absent.tflite"],
        ["compress.doctor", "--help"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_command_imports_from_the_working_folder(strange, arguments):
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=strange, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in strange.rglob("ran-*")] == []


def test_the_probe_of_memory_does_not_either(strange):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.remove('')\nimport resource\n"
        "from compress.support.command import require_memory_for\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36)); require_memory_for('json', 'yaml', 'colorsys')"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=strange, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(strange.rglob("ran-*")) == []


def test_a_package_that_the_user_names_is_imported_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_nets.py").write_text("from my_own_layers import x")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    leave_working_folder()
    assert str(tmp_path) not in sys.path
    trust_working_folder("absent_package")
    trust_working_folder("json")
    (tmp_path / "onnx").mkdir()  # installed: goes first
    trust_working_folder("onnx")
    assert str(tmp_path) not in sys.path
    trust_working_folder("my_own_nets")
    assert sys.path[0] == str(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    before = list(sys.path)
    leave_working_folder()  # what came first is another folder
    assert sys.path == before


def test_a_stage_in_the_working_folder_is_found(tmp_path):
    (tmp_path / "my_own_stages.py").write_text("class Mine: pass\n")
    request = ["target=jetson_nano", "trust=[my_own_stages]", "+stage.mine={_target_: my_own_stages.Mine}"]
    command = [sys.executable, "-m", "compress", *request]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: stage.mine._target_=my_own_stages.Mine is not a Stage\n"


@pytest.mark.parametrize("module", ["compress", "compress.cache", "compress.device"])
def test_ctrl_c_during_the_first_imports_is_one_line(tmp_path, module):
    (tmp_path / "argparse.py").write_text("import time\nprint('go', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "interrupted\n"
    assert process.returncode == 130
