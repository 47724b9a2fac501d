"""The run folder: no file takes the place of another, and the manifest never has a wrong checksum."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.core.artifact import Artifact, Format, InputSpec, Precision, Scaling
from compress.core.errors import StageError
from compress.core.measurement import Measurement
from compress.pipeline.deliver import copy_artifacts, write_manifest
from compress.pipeline.execute import Output, Result
from compress.results.manifest import FileRecord, Manifest, update_files
from compress.support.files import write_bytes
from compress.support.serialize import from_json, to_json

INPUT = InputSpec((3, 8, 8))


def result(stage: str, path: Path, content: bytes, *attached: Path, history: tuple[str, ...] = ()) -> Result:
    write_bytes(path, content)
    artifact = Artifact(Format.ONNX, path, Precision.FP32, INPUT, False, history, attachments=attached)
    return Result(Measurement(stage, Format.ONNX, Precision.FP32, "onnxruntime"), Output(stage, lambda: artifact))


def test_a_source_that_is_called_like_a_stages_file_keeps_its_bytes(tmp_path):
    source = result("source", tmp_path / "mine" / "to_onnx.onnx", b"the source")
    made = result("to_onnx", tmp_path / "store" / "to_onnx.onnx", b"made of it", history=("to_onnx",))
    folder = tmp_path / "run"
    folder.mkdir()
    delivered = copy_artifacts([source, made], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "source.onnx": b"the source",
        "to_onnx.onnx": b"made of it",
    }
    assert {stage: artifact.path.name for stage, artifact in delivered.items()} == {
        "source": "source.onnx",
        "to_onnx": "to_onnx.onnx",
    }


def test_an_attachment_that_is_called_like_another_file_is_refused(tmp_path):
    write_bytes(tmp_path / "b" / "a.onnx", b"attached")
    first = result("a", tmp_path / "a" / "a.onnx", b"a model", history=("a",))
    second = result("b", tmp_path / "b" / "b.onnx", b"another", tmp_path / "b" / "a.onnx", history=("a", "b"))
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(StageError, match=r"two files of this run are called a\.onnx"):
        copy_artifacts([first, second], folder)
    assert (folder / "a.onnx").read_bytes() == b"a model"


def test_a_delivered_file_has_its_stages_once(tmp_path):
    source = result("source", tmp_path / "mine" / "net.onnx", b"the source")
    made = result("to_onnx", tmp_path / "store" / "to_onnx.onnx", b"made of it", history=("fold", "to_onnx"))
    folder = tmp_path / "run"
    folder.mkdir()
    delivered = copy_artifacts([source, made], folder)
    assert {stage: artifact.history for stage, artifact in delivered.items()} == {
        "source": (),
        "to_onnx": ("fold", "to_onnx"),
    }
    splits = SimpleNamespace(classes=("a", "b"), scaling=Scaling(256, "bicubic"))
    write_manifest(folder, "raspberry_pi_4", source.output.artifact, delivered, splits)
    manifest = from_json(Manifest, (folder / "manifest.json").read_bytes())
    assert {file.path: file.history for file in manifest.files} == {
        "source.onnx": (),
        "to_onnx.onnx": ("fold", "to_onnx"),
    }
    assert manifest.scaling == Scaling(256, "bicubic")


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "target" / "run"
    contents = {"model.onnx": b"model", "report.html": b"old page", "report.md": b"old text", "report.json": b"{}"}
    for name, content in contents.items():
        write_bytes(folder / name, content)
    files = tuple(FileRecord(name, hashlib.sha256(text).hexdigest(), len(text)) for name, text in contents.items())
    manifest = Manifest(1, "now", "test", "raspberry_pi_4", "NCHW", INPUT, ("a",), files)
    write_bytes(folder / "manifest.json", to_json(manifest))
    return folder


def listed(folder: Path) -> set[str]:
    """Names in the manifest, after comparing each with its file."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for file in files:
        content = (folder / file["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size_bytes"], file["sha256"]), file["path"]
    return {file["path"] for file in files}


def present(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}


def test_new_and_changed_files_are_listed(run):
    update_files(run, {"report.html": b"new page", "device-a.json": b"{}"})
    assert listed(run) == present(run) == {"model.onnx", "report.html", "report.md", "report.json", "device-a.json"}


def test_an_update_does_not_vouch_for_a_file_that_was_damaged_since(run):
    recorded = json.loads((run / "manifest.json").read_text())["files"][0]
    (run / "model.onnx").write_bytes(b"other")
    update_files(run, {"report.html": b"new page"})
    files = json.loads((run / "manifest.json").read_text())["files"]
    assert next(file for file in files if file["path"] == "model.onnx")["sha256"] == recorded["sha256"]


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from compress.results.manifest import update_files

number, steps, real = int(sys.argv[2]), itertools.count(), Path.replace
def replace(self, target):
    if next(steps) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
Path.replace = replace
update_files(Path(sys.argv[1]), {"report.html": b"new page", "report.md": b"new text", "device-a.json": b"{}"})
"""


@pytest.mark.parametrize("step", range(5))
def test_killed_at_any_step_the_manifest_fits_and_the_next_update_completes_it(run, step):
    done = subprocess.run([sys.executable, "-c", KILLED, str(run), str(step)], check=False)
    assert done.returncode == -9
    assert listed(run) <= present(run), "and every checksum is right"
    assert listed(run) >= {"model.onnx", "report.json"}
    update_files(run, {"report.md": b"again"})
    assert listed(run) == present(run)
    assert [path.name for path in run.parent.iterdir()] == ["run"], "what was unfinished is gone"
