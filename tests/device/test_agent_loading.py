"""The starters of a bundle load the agent's listed, unchanged files, and nothing else that lies in the bundle."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys

import pytest
from bundle_factory import edit_manifest, make_bundle

from compress.device.bundle_agent import AGENT, COURIER, agent_files
from compress.support.files import sha256_file

STRAY = ("json", "numpy", "statistics", "argparse", "typing", "onnxruntime", "tensorrt")
QUICK = ("--any-device", "--seconds", "0.1", "--threads", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"), target="jetson_nano", opset=13)


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


def start(
    bundle, *arguments: str, script: str = "benchmark.py", **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bundle / script), *arguments]
    env = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=bundle.parent, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def leave(path, marker) -> None:
    path.write_text(f"open({str(marker)!r}, 'w').close()\n")


@pytest.mark.parametrize("folder", ["agent", "agent/runners", "agent/builder"])
def test_a_stray_file_beside_the_agents_is_never_imported(bundle, tmp_path, folder):
    for name in (name for name in STRAY if not (bundle / folder / f"{name}.py").exists()):
        leave(bundle / folder / f"{name}.py", tmp_path / "marker")
        (bundle / folder / f"{name}2").mkdir()
        leave(bundle / folder / f"{name}2" / "__init__.py", tmp_path / "marker")
    done = start(bundle, *QUICK, PYTHONPATH=str(bundle / folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "marker").exists()


def test_a_module_that_the_manifest_does_not_list_is_not_loaded(bundle, tmp_path):
    """An attacker who may add files and not change listed ones."""

    def drop(document):
        document["files"] = [one for one in document["files"] if one["path"] != "agent/timing.py"]

    edit_manifest(bundle, drop)
    leave(bundle / "agent" / "timing.py", tmp_path / "marker")
    done = start(bundle, *QUICK)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "the manifest lists no file for the module agent.timing, so it is not loaded" in done.stderr
    assert not (tmp_path / "marker").exists()


def test_a_compiled_module_is_not_loaded_in_place_of_its_source(bundle, tmp_path):
    """Whoever may add files may add `__pycache__` too."""
    import py_compile

    leave(tmp_path / "evil.py", tmp_path / "marker")
    for name in ("timing", "benchmark"):
        source = bundle / "agent" / f"{name}.py"
        cached = source.with_name("__pycache__") / f"{name}.{sys.implementation.cache_tag}.pyc"
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(tmp_path / "evil.py"), cfile=str(cached), invalidation_mode=mode)
    assert start(bundle, *QUICK).returncode == 0
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["agent/__init__.py", "agent/benchmark.py", "agent/runners/onnxruntime.py"])
def test_a_changed_file_of_the_agent_is_not_executed(bundle, tmp_path, name):
    with (bundle / name).open("a") as stream:
        stream.write(f"\nopen({str(tmp_path / 'marker')!r}, 'w').close()\n")
    done = start(bundle, *QUICK)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"{name} is not the file the manifest names (its SHA-256 differs): nothing was loaded" in done.stderr
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read "),
        (b"[]", "is not a bundle's manifest"),
        (b"nonsense", "is not a bundle's manifest"),
        (b'{"files": 3}', "is not a bundle's manifest"),
        (b'{"files": [{"path": ["agent"], "sha256": 1}]}', "is not a bundle's manifest"),
        (b"[" * 200_000, "is not a bundle's manifest"),
        (b'{"files": ' + b"9" * 3_000_000 + b"}", "is not a bundle's manifest"),
        (b'{"files": []}', "the manifest lists no file for the module agent, so"),
    ],
)
@pytest.mark.parametrize("script", ["benchmark.py", "build_engine.py"])
def test_without_a_manifest_nothing_is_loaded(bundle, script, content, words):
    if content is None:
        (bundle / "manifest.json").unlink()
    else:
        (bundle / "manifest.json").write_bytes(content)
    done = start(bundle, script=script)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr


@pytest.mark.parametrize("name", ["manifest.json", "agent/timing.py"])
def test_a_fifo_is_not_waited_for(bundle, name):
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    done = start(bundle)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "it is not a regular file" in done.stderr


def test_the_copies_are_those_of_this_release(made):
    files = agent_files({"tensorrt"})
    assert {str(name): sha256_file(path) for name, path in files.items()} == {
        str(name): sha256_file(made / name) for name in files
    }
    assert COURIER not in files.values()
    assert not [
        name for name in agent_files({"onnxruntime"}) if "builder" in name.parts or name.name == "build_engine.py"
    ]


@pytest.mark.parametrize("path", sorted(AGENT.rglob("*.py")), ids=lambda path: str(path.relative_to(AGENT)))
def test_what_runs_on_a_device_needs_nothing_but_the_standard_library(path):
    """At the top of a module; runtimes and numpy are imported inside functions, where their lack can be told."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        else:
            continue
        assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_every_runner_is_named_like_its_runtime():
    from compress.device.agent.runners import RUNNERS

    for module in RUNNERS:
        text = (AGENT / "runners" / f"{module}.py").read_text()
        assert "\nRunner = " in text
        assert f'family = "{module}"' in text
