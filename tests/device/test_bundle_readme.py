"""What a bundle's README says to type, typed; and what its requirements come to under each Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_factory import edit_manifest, first_commands, make_bundle, make_tflite_bundle
from packaging.requirements import Requirement
from pydantic import ValidationError

from compress.config.schema import load_target
from compress.core.artifact import Format
from compress.core.target import Deployment
from compress.support.resources import describe_choices, targets_folder

TARGETS = sorted(describe_choices(targets_folder()))


def packages(target: str, python: str, *formats: Format) -> list[Requirement]:
    """What pip would install for the formats (all that the profile deploys, if none are named)."""
    deployment = load_target(target, []).deployment
    lines = {line for kind, entry in deployment.items() if not formats or kind in formats for line in entry.packages}
    wanted = [Requirement(line) for line in sorted(lines)]
    return [one for one in wanted if one.marker is None or one.marker.evaluate({"python_version": python})]


@pytest.mark.parametrize("python", ["3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("target", TARGETS)
def test_no_python_is_given_two_versions_of_a_package(target, python):
    names = [requirement.name for requirement in packages(target, python)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("target", "python", "kind", "wanted"),
    [
        ("coral", "3.7", Format.EDGETPU, {"tflite-runtime==2.11.0", "numpy==1.21.6"}),
        ("coral", "3.9", Format.TFLITE, {"tflite-runtime==2.11.0", "numpy==1.26.4"}),
        ("coral", "3.11", Format.EDGETPU, {"ai-edge-litert==2.3.0", "numpy==2.2.6"}),
        ("raspberry_pi_4", "3.9", Format.TFLITE, {"ai-edge-litert==2.1.0", "numpy==2.0.2"}),
        ("raspberry_pi_5", "3.13", Format.TFLITE, {"ai-edge-litert==2.3.0", "numpy==2.2.6"}),
        ("raspberry_pi_4", "3.9", Format.ONNX, {"onnxruntime==1.19.2", "numpy==2.0.2"}),
    ],
)
def test_each_python_gets_wheels_that_exist_for_it(target, python, kind, wanted):
    assert {f"{one.name}{one.specifier}" for one in packages(target, python, kind)} == wanted


@pytest.mark.parametrize("target", TARGETS)
def test_tflite_runtime_comes_with_the_numpy_it_was_built_with(target):
    for python in ("3.7", "3.8", "3.9", "3.10", "3.11"):
        found = {one.name: str(one.specifier) for one in packages(target, python)}
        if "tflite-runtime" in found:
            assert found["numpy"].startswith("==1.")


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_installed_says_which_glibc_it_needs(target):
    for entry in load_target(target, []).deployment.values():
        assert bool(entry.packages) == bool(entry.glibc)


@pytest.mark.parametrize(
    "package",
    ["numpy", "numpy>=1.2", "numpy==1 --index-url=x", "numpy==1\n", 'numpy==1; os_name == "nt"', "numpy @ https://x"],
)
def test_a_profile_pins_packages_and_says_nothing_else_to_pip(package):
    with pytest.raises(ValidationError, match="packages"):
        Deployment(runtime="litert", packages=(package,), source="made for this test")


def test_the_readme_names_environment_and_glibc(tmp_path):
    bundle = make_bundle(tmp_path)
    assert first_commands(bundle) == [
        "python3 -m venv venv",
        "venv/bin/python -m pip install --upgrade pip",
        "venv/bin/python -m pip install -r requirements.txt",
        "venv/bin/python benchmark.py --json result.json",
    ]
    text = (bundle / "README.md").read_text()
    assert "on aarch64 with glibc 2.28 or later" in text
    assert "PEP 668" in text
    assert "$" not in text


def test_a_device_that_brings_its_runtime_needs_no_environment(tmp_path):
    assert first_commands(make_bundle(tmp_path, target="jetson_nano", opset=13)) == [
        "python3 benchmark.py --json result.json"
    ]


PYTHONS = ["3.7", "3.9", "3.11", "3.13"]


def python_folder(version: str) -> Path:
    """Folder of an interpreter called `python3` of this version."""
    found = next(iter(sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"))), None)
    if found is None and sys.version_info[:2] == tuple(map(int, version.split("."))):
        found = Path(sys.executable).parent
    if found is None:
        pytest.skip(f"no Python {version} is installed here")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_the_readme_typed_literally_leads_to_figures(tmp_path, version, kind):
    """With the wheels of this machine's architecture: the same releases as the device's."""
    folder = python_folder(version)
    bundle = make_bundle(tmp_path) if kind == "onnx" else make_tflite_bundle(tmp_path)
    target = "raspberry_pi_4" if kind == "onnx" else "coral"
    if not packages(target, version, Format(kind)) or (version == "3.7" and kind == "onnx"):
        pytest.skip(f"{target} has no packages for Python {version}")
    edit_manifest(bundle, lambda document: document["device"].update(architecture=os.uname().machine))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    *before, last = first_commands(bundle)
    for line in (*before, f"{last} --seconds 0.3 --threads 1 --models net"):
        done = subprocess.run(["sh", "-c", line], cwd=bundle, env=environment, capture_output=True, text=True)
        if done.returncode and "-m pip install" in line and "No matching distribution" not in done.stderr:
            pytest.skip(f"pip cannot reach its index: {done.stderr.strip().splitlines()[-1:]}")
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    result = json.loads((bundle / "result.json").read_text())
    assert result["device"]["python"].startswith(version)
    (row,) = result["results"]
    assert (row["problem"], row["golden"]["passed"]) == (None, True)
    shutil.rmtree(bundle / "venv")
