"""Manifests that strangers wrote, on the board: each is one line and exit code 2, before anything is loaded."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from bundle_factory import QUICK, edit_manifest, make_bundle, run_agent
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_mutations import ODD, SPLICES, TEXTS, mutate, paths, replaced, spliced

from compress.device.agent.benchmark import asked, main
from compress.device.agent.builder.limits import require_version
from compress.device.agent.builder.plans import parse_plan, plans
from compress.device.agent.files import verify
from compress.device.agent.golden import compare
from compress.device.agent.json_text import parse_json
from compress.device.agent.machine import require_device, require_flags
from compress.device.agent.manifest import read_manifest
from compress.device.agent.table import banner
from compress.device.agent.values import Problem

DEVICE = {"architecture": "aarch64", "cpu_flags": ["fp"], "model": "board", "cores": 4, "system": "Linux"}
DEVICE |= {"emulated": None, "virtual_machine": False}
STATE = {"governor": None, "clocks_mhz": [], "celsius": None, "throttled": None}
ASKED = argparse.Namespace(models=None, threads=None, precision=None, batch=None, dla_core=None, workspace_mib=None)
ASKED.sparse, ASKED.tactics = False, []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"), target="jetson_nano", opset=13)


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


@pytest.fixture(scope="module")
def fuzzed(made):
    """A bundle whose manifest is written again and again."""
    return shutil.copytree(made, made.with_name("fuzzed"))


@pytest.fixture(scope="module")
def document(made):
    """The manifest without checksums of the agent's own files: nothing here starts it from the bundle."""
    whole = json.loads((made / "manifest.json").read_text())
    return {**whole, "files": [entry for entry in whole["files"] if "/" not in entry["path"]]}


class Runtime:
    __version__ = "8.2.1"


def use(folder: str) -> None:
    """Everything that either program does with a manifest before a model is opened."""
    manifest, _ = read_manifest(folder)
    verify(folder, manifest)
    banner(manifest, DEVICE, STATE)
    require_device(manifest, DEVICE, any_device=True)
    for model, threads in asked(manifest, DEVICE, ASKED):
        assert threads in (1, 4)
        assert model["tolerance"]["any"]
        with contextlib.suppress(Problem):  # that model's own failure
            require_flags(model, DEVICE)
    require_version(Runtime, manifest, any_device=False)
    plans(folder, manifest, ASKED, {"capability": [5, 3], "free_bytes": 1 << 30})


def answer(folder, content: bytes) -> str | None:
    """What is wrong with a manifest; None if nothing is. Anything but a `Problem` is a fault of the agent."""
    (folder / "manifest.json").write_bytes(content)
    problem = None
    try:
        use(str(folder))
    except Problem as error:
        problem = error
    if problem is None:
        return None
    assert problem.code == 2, problem
    assert str(problem).isprintable()
    assert len(str(problem)) < 3000
    return str(problem)


def test_the_manifest_of_a_bundle_is_taken(made, bundle):
    assert answer(bundle, (made / "manifest.json").read_bytes()) is None


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("models", 0, "format"), None, "models[0].format is None, not text"),
        (("models", 0, "stage"), 3, "models[0].stage is 3, not text"),
        (("models", 0, "stage"), "a\nb", r"models[0].stage is 'a\nb', not one line"),
        (("models", 0, "path"), ["net.onnx"], "models[0].path is ['net.onnx'], not text"),
        (("models", 0, "sample_shape"), [3, 8], "models[0].sample_shape has 2 entries, not 3"),
        (("models", 0, "sample_shape"), [3, 8, 1.5], "models[0].sample_shape[2] is 1.5, not a whole number from 1"),
        (("models", 0, "sample_shape"), [3, 8, True], "models[0].sample_shape[2] is True, not a whole number"),
        (("models", 0, "tolerance"), {}, "models[0].tolerance has no 'any'"),
        (("models", 0, "tolerance"), {"any": {}}, "models[0].tolerance.any has no limit"),
        (("models", 0, "tolerance"), {"any": {"psnr": 1}}, "has the unknown limit 'psnr'; this agent knows abs_error"),
        (
            ("models", 0, "tolerance"),
            {"any": {"abs_error": [1]}},
            "models[0].tolerance.any.abs_error is [1], not a num",
        ),
        (("models", 0, "tolerance"), {"any": 1}, "models[0].tolerance.any is 1, not an object"),
        (("models", 0, "opset"), "13", "models[0].opset is '13', not a whole number"),
        (("models", 0, "needs"), {"onnxruntime": "9" * 5000}, "not a version such as 1.17"),
        (("models", 0, "cpu_flags"), {"aarch64": "fp"}, "models[0].cpu_flags.aarch64 is 'fp', not a list"),
        (("models",), [], "models has 0 entries, not at least 1"),
        (("models",), {}, "models is {}, not a list"),
        (("files", 0, "sha256"), "A" * 64, "not a SHA-256"),
        (("files", 0), None, "files[0] is None, not an object"),
        (("golden",), "golden.npz", "golden is 'golden.npz', not an object"),
        (("device",), {}, "device has no 'architecture'"),
        (("schema_version",), True, "schema_version is True, not a whole number"),
        (("schema_version",), 2, "the manifest has schema 2, this agent reads 1"),
    ],
)
def test_a_field_that_is_something_else_is_named(bundle, document, path, value, words):
    assert words in answer(bundle, json.dumps(replaced(document, path, value)).encode())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"NaN", "NaN is not a number in JSON"),
        (b"-Infinity", "-Infinity is not a number in JSON"),
        (b"1e999", "the number '1e999' is too large or too long"),
        (b"9" * 5000, "is too long"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'"\xff"', "not UTF-8"),
        (b'{"a": 1, "a": 2}', "it has the key 'a' twice"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    ],
)
def test_what_no_json_should_hold_is_refused(bundle, document, text, words):
    assert words in answer(bundle, spliced(document, ("models", 0, "history"), text))


def test_a_large_manifest_is_not_read(bundle):
    (bundle / "manifest.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(Problem, match="it has more than 16 MiB"):
        read_manifest(str(bundle))


def test_names_that_stand_twice_are_refused(bundle, document):
    twice = {**document, "models": document["models"] * 2}
    assert "names the model 'net' twice" in answer(bundle, json.dumps(twice).encode())
    twice = {**document, "files": [*document["files"], document["files"][0]]}
    assert "names the file 'README.md' twice" in answer(bundle, json.dumps(twice).encode())


def test_a_precision_that_no_engine_has_is_refused(bundle, document):
    changed = replaced(document, ("models", 0, "precision"), "int4")
    assert "net.onnx has the precision 'int4'; engines are built in fp32, fp16, int8" in answer(
        bundle, json.dumps(changed).encode()
    )


@pytest.mark.parametrize("value", [v for v in ODD if v is None or isinstance(v, (list, dict, int, float))])
def test_every_field_takes_no_other_type(bundle, document, value):
    """Each field in turn: refused with one line, or of no importance."""
    for path in paths(document):
        answer(bundle, json.dumps(replaced(document, path, value)).encode())


@pytest.mark.parametrize("content", TEXTS, ids=range(len(TEXTS)))
def test_documents_that_are_no_manifest_are_one_line(bundle, content):
    assert "manifest" in answer(bundle, content)


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32))
def test_fuzz_a_mutated_manifest_is_one_line_or_is_used(fuzzed, document, seed):
    answer(fuzzed, mutate(document, seed))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fuzz_any_json_in_place_of_a_field(fuzzed, document, data):
    path = data.draw(st.sampled_from(list(paths(document))))
    answer(fuzzed, json.dumps(replaced(document, path, data.draw(JSON))).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_law_json_is_read_as_pythons_own_or_refused(content):
    try:
        ours = parse_json(content)
    except ValueError:
        return
    assert ours == json.loads(content)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (b"[]", "the document is [], not an object"),
        (b'{"onnx": 3}', "onnx is 3, not text"),
        (b'{"onnx": "x", "batch": [1, 8]}', "batch has 2 entries, not 3"),
        (b'{"onnx": "x", "batch": [8, 1, 1]}', "not smallest, usual, largest"),
        (b'{"onnx": "x", "dla_core": "0"}', "dla_core is '0', not a whole number from 0 to 1"),
        (b'{"onnx": "x", "workspace_mib": -1}', "workspace_mib is -1, not a whole number from 1"),
        (b"nonsense", "net.plan.json is not a plan"),
    ],
)
def test_a_plan_that_is_none_is_one_line(plan, words):
    with pytest.raises(Problem) as caught:
        parse_plan("net.plan.json", plan)
    assert words in str(caught.value)
    assert caught.value.code == 2


@pytest.mark.parametrize("content", SPLICES)
def test_a_plan_that_is_no_json_is_one_line(content):
    with pytest.raises(Problem):
        parse_plan("x", b'{"onnx": "x", "batch": ' + content + b"}")


def test_a_link_in_the_bundle_is_refused(bundle, capsys):
    (bundle / "net.onnx").rename(bundle / "other.onnx")
    (bundle / "net.onnx").symlink_to("other.onnx")
    assert main(["--bundle", str(bundle), *QUICK]) == 2
    assert "net.onnx is a link: a bundle has plain files only" in capsys.readouterr().err


def test_a_linked_folder_is_refused(bundle, capsys):
    (bundle / "agent").rename(bundle / "elsewhere")
    (bundle / "agent").symlink_to("elsewhere")
    assert main(["--bundle", str(bundle), *QUICK]) == 2
    assert "agent is a link" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["net.onnx", "manifest.json"])
def test_a_fifo_is_not_waited_for(bundle, capsys, name):
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert main(["--bundle", str(bundle), *QUICK]) == 2
    assert "it is not a regular file" in capsys.readouterr().err


def test_golden_outputs_that_are_no_numbers_prove_nothing():
    import numpy as np

    expected = np.array([[np.nan, 1.0]], np.float32)
    found = compare(expected, np.ones((1, 2), np.float32), {"abs_error": 1.0})
    assert found == {"passed": False, "reason": "the golden outputs have NaN or infinite values"}


def test_an_unknown_format_is_the_failure_of_its_model(bundle):
    other = {"format": "gguf", "runner": "gguf", "runtime": "llama.cpp"}
    edit_manifest(bundle, lambda document: document["models"][0].update(other))
    done = run_agent(bundle, *QUICK)
    assert (done.code, done.err) == (1, "")
    assert done.result["results"][0]["problem"].endswith(
        "needs the runner 'gguf'; this agent has edgetpu, litert, onnxruntime, tensorrt, torchscript"
    )


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(bundle):
    edit_manifest(bundle, lambda document: document["models"][0].update(precision="größe"))
    done = run_agent(bundle, *QUICK, environment={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert "gr\\xf6\\xdfe" in done.out
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_three_hundred_mutations_typed_on_the_board(bundle):
    """Through `python3 benchmark.py` itself; most are refused, some are harmless and are measured."""
    document, codes = json.loads((bundle / "manifest.json").read_text()), []
    for seed in range(300):
        (bundle / "manifest.json").write_bytes(mutate(document, seed))
        command = [sys.executable, str(bundle / "benchmark.py"), "--any-device", "--seconds", "0.05", "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=bundle.parent)
        assert "Traceback" not in done.stderr, (seed, done.stderr)
        assert done.returncode in (0, 1, 2), (seed, done.returncode)
        if done.returncode == 2:
            assert (done.stdout, done.stderr.count("\n")) == ("", 1), (seed, done.stderr)
            assert done.stderr.startswith("error: "), (seed, done.stderr)
        codes.append(done.returncode)
    assert codes.count(2) > 150
