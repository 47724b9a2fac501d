"""Finished stages are found by content, verified before use, and never half there."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import StageError
from compress.core.measurement import Fidelity, Measurement, Sparsity
from compress.pipeline.store import StageStore, content_key
from compress.support.serialize import from_json, to_json

INPUT = InputSpec((3, 4, 4))


def module_artifact():
    return Artifact(
        Format.TORCH, nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval(), Precision.FP32, INPUT, True, ("a",)
    )


def file_artifact(store, key):
    path = store.folder(key) / "to_onnx.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a model file")
    return Artifact(Format.ONNX, path, Precision.INT8, INPUT, False, ("a", "b"))


def test_a_module_is_found_and_restored(tmp_path):
    store, artifact = StageStore(tmp_path), module_artifact()
    assert store.find("k") is None
    store.save("k", artifact, 1.5, 1000, source=artifact.module)
    found = StageStore(tmp_path).find("k")
    assert found is not None
    assert (found.seconds, found.peak_rss_bytes, found.restorable) == (1.5, 1000, True)
    again = store.load("k", source=artifact.module)
    assert (again.precision, again.input, again.history) == (Precision.FP32, INPUT, ("a",))
    image = torch.randn(1, 3, 4, 4)
    assert torch.equal(again.module(image), artifact.module(image))


def test_a_file_is_found_where_it_was_written(tmp_path):
    store = StageStore(tmp_path)
    artifact = file_artifact(store, "k")
    store.save("k", artifact, 0.1, 1, source=None)
    assert store.load("k", source=None) == artifact


@pytest.mark.parametrize("damage", ["truncate", "remove", "entry"])
def test_damage_means_not_finished(tmp_path, damage):
    store = StageStore(tmp_path)
    artifact = file_artifact(store, "k")
    store.save("k", artifact, 0.1, 1, source=None)
    if damage == "truncate":
        artifact.path.write_bytes(b"a mod")
    elif damage == "remove":
        artifact.path.unlink()
    else:
        (store.folder("k") / "entry.json").write_text("{")
    assert store.find("k") is None
    with pytest.raises(StageError, match="no stored output"):
        store.load("k", source=None)


def test_an_entry_cannot_point_outside_its_folder(tmp_path):
    store = StageStore(tmp_path)
    store.save("k", file_artifact(store, "k"), 0.1, 1, source=None)
    entry = store.folder("k") / "entry.json"
    entry.write_text(entry.read_text().replace("to_onnx.onnx", "../../secret"))
    assert store.find("k") is None


def test_measurements_are_kept_by_what_they_were_measured_with(tmp_path):
    store = StageStore(tmp_path)
    fidelity = Fidelity(agreement=1.0, sqnr_db=math.inf, max_abs_error=0.0, samples=10)
    measurement = Measurement("a", Format.ONNX, Precision.INT8, "onnxruntime", fidelity=fidelity, notes={"macs": "why"})
    store.save_measurement("k", "host one", measurement)
    assert store.find_measurement("k", "host one") == measurement
    assert store.find_measurement("k", "host two") is None


@given(st.floats(allow_nan=False), st.integers(0, 2**53), st.text(max_size=20))
def test_measurements_round_trip_through_json(value, count, text):
    measurement = Measurement(
        stage=text,
        format=Format.TORCH,
        precision=Precision.FP32,
        runtime=text,
        size_bytes=count,
        sparsity=Sparsity(0, count, {text: 0.5}),
        fidelity=Fidelity(1.0, value, 0.0, 1),
    )
    assert from_json(Measurement, to_json(measurement)) == measurement


@given(st.dictionaries(st.text(), st.integers()))
def test_the_key_does_not_depend_on_order(parts):
    assert content_key(parts) == content_key(dict(reversed(parts.items())))
    assert content_key({**parts, "one more": 1}) != content_key(parts)


def test_two_runs_at_once_make_an_entry_once(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from compress.pipeline.store import StageStore\n"
        "from compress.core.artifact import Artifact, Format, InputSpec, Precision\n"
        "store = StageStore(Path(sys.argv[1]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with store.making('k', lambda: None):\n"
        "    if store.find('k') is None:\n"
        "        path = store.folder('k') / 'a.onnx'\n"
        "        path.write_bytes(b'half'); time.sleep(0.3); path.write_bytes(sys.argv[2].encode())\n"
        "        artifact = Artifact(Format.ONNX, path, Precision.FP32, InputSpec((3, 4, 4)), False, ('a',))\n"
        "        store.save('k', artifact, 0.1, 1, source=None)\n"
        "        print('made')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    pipe = subprocess.PIPE
    runs = {name: subprocess.Popen([*command, name], stdin=pipe, stdout=pipe, text=True) for name in ("one", "two")}
    for process in runs.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in runs.values():
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    made = [name for name, process in runs.items() if process.communicate(timeout=30)[0] == "made\n"]
    assert len(made) == 1
    assert StageStore(tmp_path).load("k", source=None).path.read_text() == made[0]
