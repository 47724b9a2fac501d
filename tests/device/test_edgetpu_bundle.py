"""A bundle with a file for the Edge TPU: compiled later, it is taken along and run; uncompiled, it never is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_factory import QUICK, edit_manifest, make_tflite_bundle, run_agent

from compress.core.artifact import Format
from compress.core.errors import ConfigError
from compress.device.agent.benchmark import main
from compress.device.archive import pack
from compress.results.bundle import read_bundle

pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")

STANDIN = Path(__file__).parent / "standin"
BESIDE = {**os.environ, "PYTHONPATH": os.pathsep.join([str(STANDIN), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def bundle(tmp_path):
    return make_tflite_bundle(tmp_path / "made")


@pytest.fixture
def compiled(bundle, tmp_path):
    """The bundle after somebody ran its script where the compiler is."""
    program = tmp_path / "edgetpu_compiler"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {STANDIN / "edgetpu_compiler.py"} "$@"\n')
    program.chmod(0o755)
    environment = {**BESIDE, "EDGETPU_COMPILER": str(program)}
    script = ["sh", str(bundle / "tpu_compile.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return bundle


def test_the_manifest_says_what_runs_and_what_has_to_be_compiled(bundle):
    net, tpu = read_bundle(bundle).manifest.models
    assert (net.format, net.runtime, net.compiled) == (Format.TFLITE, "litert", None)
    assert (tpu.format, tpu.runtime, tpu.path) == (Format.EDGETPU, "edgetpu", "tpu.tflite")
    assert tpu.compiled == "tpu_edgetpu.tflite"
    readme = (bundle / "README.md").read_text()
    assert "sh tpu_compile.sh" in readme
    assert "writes `tpu_edgetpu.tflite` here" in readme
    assert "| `tpu` | `tpu.tflite` | int8 | edgetpu |" in readme


def test_what_is_not_compiled_gets_no_number(bundle):
    """Neither on the CPU nor at all, even where an Edge TPU answers."""
    done = run_agent(bundle, *QUICK, environment=BESIDE)
    net, tpu = done.result["results"]
    assert (done.code, net["problem"]) == (1, None)
    assert net["runtime"].startswith("ai_edge_litert ")
    assert "latency" not in tpu
    assert tpu["problem"] == (
        "tpu.tflite is not compiled for the Edge TPU yet | fix: sh tpu_compile.sh on x86-64 Linux with "
        "edgetpu_compiler, then copy tpu_edgetpu.tflite here"
    )


def test_what_was_compiled_later_is_measured_under_its_runtime(compiled):
    done = run_agent(compiled, *QUICK, environment=BESIDE)
    assert done.code == 0, done.out + done.err
    tpu = done.result["results"][1]
    assert (tpu["stage"], tpu["format"], tpu["problem"]) == ("tpu", "edgetpu", None)
    assert tpu["runtime"].startswith("edgetpu (pycoral")
    assert tpu["golden"]["passed"]
    header, *rows = done.out.splitlines()[-3:]
    column = header.index("runtime")
    assert [row[column:].split()[0] for row in rows] == ["ai_edge_litert", "edgetpu"]


def test_what_was_compiled_later_goes_to_the_device(compiled):
    bundle = read_bundle(compiled)
    paths = [file.path for file in bundle.files]
    assert paths[-2:] == ["tpu_edgetpu.tflite", "manifest.json"]
    assert "tpu_edgetpu.log" not in paths
    (compiled / "tpu_edgetpu.tflite").unlink()
    assert "tpu_edgetpu.tflite" not in [file.path for file in read_bundle(compiled).files]


def test_without_the_delegate_there_is_one_line(compiled):
    done = run_agent(compiled, *QUICK, "--models", "tpu")
    (row,) = done.result["results"]
    assert row["problem"].startswith("no Edge TPU answers: libedgetpu.so.1: cannot open shared object file")
    assert "install libedgetpu1-std" in row["problem"]
    assert "\n" not in row["problem"]


def test_a_file_that_the_compiler_left_as_it_was_is_not_timed_as_compiled(bundle):
    (bundle / "tpu_edgetpu.tflite").write_bytes((bundle / "tpu.tflite").read_bytes())
    done = run_agent(bundle, *QUICK, "--models", "tpu", environment=BESIDE)
    assert done.code == 1
    assert "tpu_edgetpu.tflite holds nothing that runs on an Edge TPU" in done.result["results"][0]["problem"]


@pytest.mark.parametrize("name", ["../x_edgetpu.tflite", "/etc/passwd"])
def test_a_compiled_file_is_looked_for_in_the_bundle_only(bundle, capsys, name):
    edit_manifest(bundle, lambda document: document["models"][1].update(compiled=name))
    with pytest.raises(ConfigError, match="leaves the folder"):
        read_bundle(bundle)
    assert main(["--bundle", str(bundle), "--any-device"]) == 2
    assert "leaves the bundle" in capsys.readouterr().err


def test_the_script_can_be_started_from_the_archive(bundle, tmp_path):
    import tarfile

    pack(bundle, tmp_path / "b.tar.gz")
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        assert tar.getmember("bundle/tpu_compile.sh").mode == 0o755
