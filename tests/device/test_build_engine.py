"""build_engine.py as a user of a Jetson meets it, under the Python it meets there; TensorRT and the GPU are stand-ins.

Only refusals and failures can be tried this way. That engines are built, checked and raced is shown on a real GPU by
scripts/bench_tensorrt.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bundle_factory import edit_manifest, make_bundle

from compress.device.agent.build_engine import main
from compress.device.agent.builder.layers import count_precisions, layer_precision
from compress.device.agent.builder.limits import choose_workspace, fp16_refusal, int8_refusal
from compress.device.agent.builder.network import tactic_sources
from compress.device.agent.builder.plans import Plan, trtexec
from compress.device.agent.builder.race import recommend
from compress.device.agent.runners import load
from compress.device.agent.values import Problem
from compress.device.bundle_agent import AGENT

STANDIN = Path(__file__).parent / "standin"


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A folder with a stand-in libcuda.so.1."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler is here for the stand-in CUDA driver")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(STANDIN / "cuda.c")], check=True)
    return folder


@pytest.fixture(scope="module", params=["python3.6", "this python"])
def python(request):
    if request.param != "python3.6":
        return sys.executable
    found = [shutil.which("python3.6"), *Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6")]
    for path in (str(path) for path in found if path):
        if subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    return pytest.skip("no Python 3.6 is installed here")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"), target="jetson_nano", opset=13)


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


class Device:
    """Runs the bundle's build_engine.py with the stand-ins; keywords set STANDIN_<NAME>."""

    def __init__(self, python: str, driver: Path | None, package: bool = True) -> None:
        self.python, self.driver, self.package = python, driver, package

    def __call__(self, bundle: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "STANDIN_CAPABILITY": "53", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {f"STANDIN_{name.upper()}": value for name, value in settings.items()}
        environment.pop("PYTHONPATH", None)
        if self.package:
            environment["PYTHONPATH"] = str(STANDIN)
        if self.driver:
            environment["LD_LIBRARY_PATH"] = str(self.driver)
        done = subprocess.run(
            [self.python, str(bundle / "build_engine.py"), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done


@pytest.fixture
def jetson(python, driver):
    return Device(python, driver)


def as_int8(document):
    document["models"][0]["precision"] = "int8"


def test_a_tensorrt_bundle_brings_the_builder_and_others_do_not(made, tmp_path):
    start = (AGENT / "start.py").read_bytes()
    assert (made / "build_engine.py").read_bytes() == start == (made / "benchmark.py").read_bytes()
    assert (made / "agent/builder/network.py").exists()
    other = make_bundle(tmp_path, target="raspberry_pi_4")
    assert not [path for path in ("build_engine.py", "agent/builder") if (other / path).exists()]


def test_standin_a_wrong_batch_names_the_form(jetson, bundle):
    done = jetson(bundle, "--batch", "8,1,1")
    assert done.returncode == 2
    assert "smallest,usual,largest like 1,8,32; got '8,1,1'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "x"], "smallest,usual,largest like 1,8,32; got 'x'"),
        (["--batch", "1,8,99999999"], "smallest,usual,largest like 1,8,32"),
        (["--workspace-mib", "-5"], "'-5' is not a whole number from 1 to 1048576"),
        (["--workspace-mib", "much"], "'much' is not a whole number from 1 to 1048576"),
        (["--precision", "int4"], "invalid choice: 'int4'"),
        (["--seconds", "nan"], "'nan' is not a number of seconds above 0"),
    ],
)
def test_a_wrong_request_is_one_line(made, capsys, arguments, words):
    assert main(["--bundle", str(made), *arguments]) == 2
    out, error = capsys.readouterr()
    assert words in error
    assert (error.count("\n"), out) == (1, "")


def test_a_tactic_source_that_is_none_is_one_line():
    class TacticSource:
        CUBLAS, CUDNN = range(2)

    package = SimpleNamespace(__version__="8.5.2", TacticSource=TacticSource)
    assert tactic_sources(package, ["CUDNN", "CUBLAS", "CUDNN"]) == 0b11
    with pytest.raises(Problem, match=r"8\.5\.2 has no tactic source '__doc__' \| fix: one of CUBLAS, CUDNN"):
        tactic_sources(package, ["CUBLAS", "__doc__"])
    with pytest.raises(Problem, match="has no tactic source 'CUDNN'"):
        tactic_sources(SimpleNamespace(__version__="8.0.1"), ["CUDNN"])


def test_a_command_to_copy_is_quoted():
    plan = Plan("/b/net;reboot.onnx", "/b/net;reboot.engine", "fp16", 1 << 28)
    text = trtexec(plan, "8.5.2", "input", (3, 8, 8))
    assert text.startswith("trtexec --onnx='net;reboot.onnx' --saveEngine='net;reboot.engine' --fp16")


def test_standin_a_changed_file_is_not_built(jetson, bundle):
    with (bundle / "net.onnx").open("ab") as stream:
        stream.write(b"x")
    done = jetson(bundle)
    assert done.returncode == 2
    assert "net.onnx is not the file the manifest names (its SHA-256 differs)" in done.stderr


def test_standin_a_file_by_itself_is_compared_with_its_sum(jetson, bundle):
    done = jetson(bundle, "--onnx", str(bundle / "net.onnx"), "--sha256", "0" * 64)
    assert done.returncode == 2
    assert "is not the file it should be (its SHA-256 differs)" in done.stderr


def test_standin_without_tensorrt_the_package_is_named(python, driver, bundle):
    done = Device(python, driver, package=False)(bundle)
    assert done.returncode == 1
    assert "tensorrt cannot be imported" in done.stderr
    assert "apt install python3-libnvinfer-dev" in done.stderr


def test_standin_without_a_driver_it_says_where_to_run(python, bundle):
    done = Device(python, None)(bundle)
    assert done.returncode == 1
    assert "there is no CUDA driver here" in done.stderr


def test_standin_a_parser_failure_names_node_operator_and_reason(jetson, bundle):
    problem = "In node 5 (importFallbackPluginImporter): UNSUPPORTED_NODE: No importer registered for op: GridSample"
    done = jetson(bundle, parser=problem)
    assert done.returncode == 1
    assert (
        "net.engine: NOT USED: TensorRT's parser does not take net.onnx: node 5 (GridSample): In node 5" in done.stdout
    )
    assert "export with a lower opset, or leave that operator out" in done.stdout


def test_standin_out_of_memory_says_how_to_add_swap(jetson, bundle):
    done = jetson(bundle, builder="10: [optimizer.cpp] Could not allocate 1073741824 bytes: out of memory")
    assert done.returncode == 1
    assert "net.engine was not built: 10: [optimizer.cpp] Could not allocate" in done.stdout
    assert "sudo swapon /swapfile" in done.stdout


def test_standin_an_opset_too_new_for_the_parser_is_refused_with_the_fix(jetson, tmp_path):
    bundle = make_bundle(tmp_path, target="jetson_xavier_nx", opset=17)
    done = jetson(bundle, version="8.2.1.8")
    assert done.returncode == 2
    assert "TensorRT 8.2.1.8 reads ONNX up to opset 13, net.onnx has 17" in done.stderr
    assert "stage.net.opset=13" in done.stderr


def test_standin_another_version_is_remarked_on(jetson, bundle):
    done = jetson(bundle, version="8.0.1.6")
    assert "note: this bundle expects TensorRT 8.2.1" in done.stdout
    assert "here is TensorRT 8.0.1.6" in done.stdout


def test_standin_a_strongly_typed_tensorrt_cannot_make_fp16_of_a_float_file(jetson, bundle):
    done = jetson(bundle, "--precision", "fp16", version="11.0.0")
    assert "TensorRT 11.0.0 takes the precision from the file, and net.onnx has no FP16 in it" in done.stdout
    assert "export it with precision=fp16" in done.stdout


def test_standin_int8_is_refused_on_a_nano_with_the_reason(jetson, bundle):
    edit_manifest(bundle, as_int8)
    done = jetson(bundle, "--json", str(bundle / "engines.json"))
    reason = "INT8 needs compute capability 6.1 or at least 7.0, this GPU has 5.3"
    assert done.returncode == 1
    assert f"net.engine: NOT USED: {reason}" in done.stdout
    (engine,) = json.loads((bundle / "engines.json").read_text())["engines"]
    assert engine["problem"].startswith(reason)


def test_standin_a_fixed_batch_is_not_stretched(jetson, bundle):
    done = jetson(bundle, "--onnx", str(bundle / "net.onnx"), "--batch", "1,8,8")
    assert done.returncode == 2
    assert "net.onnx has a fixed batch of 1" in done.stderr


def test_standin_trtexec_builds_the_same(jetson, bundle):
    done = jetson(bundle, "--precision", "fp16", "--dla-core", "0", "--workspace-mib", "256")
    assert (
        "trtexec --onnx=net.onnx --saveEngine=net.fp16.engine --fp16 --workspace=256 --useDLACore=0 --allowGPUFallback"
        in done.stdout
    )


def test_without_an_engine_the_benchmark_names_the_builder(bundle, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (model,) = json.loads((bundle / "manifest.json").read_text())["models"]
    with pytest.raises(Problem, match=r"net.onnx has no engine yet \| fix: python3 build_engine.py builds it"):
        load(str(bundle), model, 1)


# --- without any device -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "int8", "fp16"),
    [((5, 2), False, False), ((5, 3), False, True), ((6, 1), True, True), ((6, 2), False, True), ((7, 2), True, True)],
)
def test_precisions_follow_the_compute_capability(capability, int8, fp16):
    assert (int8_refusal(capability) is None) == int8
    assert (fp16_refusal(capability) is None) == fp16


def test_the_fastest_engine_that_is_right_is_recommended():
    def engine(name, precision, ms, problem=None):
        return {
            "engine": name,
            "stage": name,
            "precision": precision,
            "problem": problem,
            "latency": {"median_ms": ms},
        }

    found = recommend([engine("a", "int8", 2.0), engine("b", "fp16", 1.0), engine("c", "fp32", 0.5, "wrong")])
    assert found["engine"] == "b"
    assert found["why"] == "b 1.000 ms, a 2.000 ms; INT8 is slower here"
    assert recommend([engine("c", "fp32", 0.5, "wrong")]) is None


def test_layers_are_counted_by_what_they_read():
    def layer(kind, datatype):
        return {"Name": "n", "LayerType": kind, "Inputs": [{"Format/Datatype": datatype}]}

    assert layer_precision(layer("x", "Thirty-two wide channel vectorized row major Int8 format")) == "int8"
    assert layer_precision(layer("x", "Channel major FP16 format where channel % 8 == 0")) == "fp16"
    assert layer_precision(layer("x", "Row major linear FP32")) == "fp32"
    layers = [{"type": "CaskConvolution", "precision": "int8"}, {"type": "Reformat", "precision": "fp32"}]
    assert count_precisions(layers) == {"int8": 1, "moving data": 1}


def test_the_workspace_fits_a_small_device():
    mib = 1 << 20
    assert choose_workspace(None, 8192 * mib) == 1024 * mib
    assert choose_workspace(None, 1000 * mib) == 250 * mib
    assert choose_workspace(None, 10 * mib) == 64 * mib
    assert choose_workspace(32, 8192 * mib) == 32 * mib
