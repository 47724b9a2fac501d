"""A bundle of a stranger's: links, names outside, programs, documents of wrong types; nothing in it is run here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from bundle_factory import edit_manifest, make_bundle
from doubles import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.core.errors import CompressError, ConfigError, StageError
from compress.device.archive import pack
from compress.device.visit import BenchOptions, measure_on
from compress.results.bundle import read_bundle
from compress.results.device import read_result

PACKAGE = ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)


def test_a_link_is_refused_wherever_it_leads(bundle):
    real = bundle.parent / "net.onnx"
    shutil.move(bundle / "net.onnx", real)
    (bundle / "net.onnx").symlink_to(real)
    refused(bundle, "leaves the folder")
    (bundle / "net.onnx").unlink()
    shutil.move(real, bundle / "same.onnx")
    (bundle / "net.onnx").symlink_to("same.onnx")
    refused(bundle, "net.onnx is a link: a bundle has plain files only")


def test_a_folder_in_the_bundle_that_is_a_link_is_refused(bundle):
    (bundle / "real").mkdir()
    shutil.move(bundle / "net.onnx", bundle / "real/net.onnx")
    (bundle / "sub").symlink_to("real")

    def move(document):
        document["models"][0]["path"] = "sub/net.onnx"
        next(file for file in document["files"] if file["path"] == "net.onnx")["path"] = "sub/net.onnx"

    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    move(document)
    path.write_text(json.dumps(document))
    refused(bundle, "sub is a link")


def test_a_compiled_file_that_is_a_link_is_refused(bundle, tmp_path):
    edit_manifest(bundle, lambda document: document["models"][0].update(compiled="net_edgetpu.tflite"))
    (bundle / "net_edgetpu.tflite").symlink_to("net.onnx")
    refused(bundle, "net_edgetpu.tflite is a link")


@pytest.mark.parametrize("name", ["json.py", "numpy.py", "os.pyc", "torch.abi3.so", "x.pth"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_program_that_no_bundle_has_is_refused(bundle, name, listed):
    (bundle / name).write_text("raise SystemExit('executed')")
    if listed:
        edit_manifest(
            bundle, lambda document: document["files"].append({"path": name, "sha256": "0" * 64, "size_bytes": 1})
        )
    refused(bundle, rf"{re.escape(name)} in .* is a program that no bundle has: Python would import it")


def test_a_package_that_no_bundle_has_is_refused(bundle):
    (bundle / "numpy").mkdir()
    (bundle / "numpy/__init__.py").write_text("raise SystemExit('executed')")
    refused(bundle, r"numpy in .* is a program that no bundle has")


def test_what_a_user_leaves_in_the_folder_is_left_alone(bundle):
    for name in ("result.json", "engines.json", "net.engine", "timing.cache"):
        (bundle / name).write_text("x")
    (bundle / "venv/bin").mkdir(parents=True)
    (bundle / "venv/bin/python").symlink_to(sys.executable)
    assert read_bundle(bundle).manifest.models[0].stage == "net"


def test_a_hard_link_is_a_file_like_any_other(bundle, tmp_path):
    """Run folders and their bundles share files by hard links; content is what counts."""
    os.link(bundle / "net.onnx", tmp_path / "other")
    assert read_bundle(bundle)
    (tmp_path / "other").write_bytes(b"changed")
    refused(bundle, "net.onnx in .* is not the file its manifest names")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_file_is_refused(bundle, kind):
    (bundle / "net.onnx").unlink()
    if kind == "device":
        edit = json.loads((bundle / "manifest.json").read_text())
        edit["models"][0]["path"] = edit["files"][0]["path"] = "/dev/zero"
        (bundle / "manifest.json").write_text(json.dumps(edit))
        refused(bundle, "leaves the folder")
        return
    (os.mkfifo if kind == "fifo" else os.mkdir)(bundle / "net.onnx")
    refused(bundle, "net.onnx is missing from the bundle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["models"][0].update(format="flash"), r"models\.0\.format is 'flash': Input should be 'torch'"),
        (lambda d: d["models"][0].update(format=None), r"models\.0\.format is null: Input should be"),
        (lambda d: d["models"][0].pop("runtime"), r"models\.0\.runtime: Field required"),
        (lambda d: d["models"][0].update(opset=10**30), "does not fit 64 bits"),
        (lambda d: d["models"][0].update(opset=-1), r"models\.0\.opset is -1: Input should be greater than"),
        (lambda d: d["models"][0].update(sample_shape=[3, 0, 8]), r"sample_shape\.1 is 0"),
        (lambda d: d["models"][0].update(tolerance={"any": {"abs_error": "NaN"}}), "abs_error is 'NaN'"),
        (lambda d: d["golden"].update(samples=10**18), r"golden\.samples is 1000000000000000000"),
        (lambda d: d["files"][0].update(size_bytes=-5), r"files\.0\.size_bytes is -5"),
        (lambda d: d["files"][0].update(size_bytes=5), "is not the file its manifest names"),
        (lambda d: d.update(files=[d["files"][0]] * 2000), "files is a list of 2000: Tuple should have at most 1000"),
        (lambda d: d.update(classes="abc"), "classes is 'abc': Input should be a valid tuple"),
        (lambda d: d.update(target="\ud800"), "half of a surrogate pair"),
        (lambda d: d["input"].update(std=[0, 1, 1]), "std must be positive"),
    ],
)
def test_fields_of_a_manifest_are_named_with_what_they_are(bundle, change, message):
    document = json.loads((bundle / "manifest.json").read_text())
    change(document)
    (bundle / "manifest.json").write_text(json.dumps(document))
    refused(bundle, message)


def test_a_runtime_that_is_not_known_is_named(bundle):
    edit_manifest(bundle, lambda document: document["models"][0].update(runtime="onnxruntim"))

    class Listener:
        name = "pi"

        def open(self):
            return self

        def ask(self, request, seconds):
            return b'{"ok": {"sizes": {}}}\n' if b'"have"' in request else b'{"ok": {}}\n'

        def close(self):
            pass

    with pytest.raises(ConfigError, match="runtime 'onnxruntim': did you mean 'onnxruntime'"):
        measure_on(Listener(), read_bundle(bundle), BenchOptions(patience_seconds=0), lambda text: None)


@pytest.mark.parametrize("kind", ["link", "fifo", "loop"])
def test_an_archive_is_made_of_plain_files(tmp_path, kind):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a").write_text("a")
    pack(tmp_path / "folder", tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        assert tar.getnames() == ["folder/a"]
    odd = tmp_path / "folder/odd"
    os.mkfifo(odd) if kind == "fifo" else odd.symlink_to("odd" if kind == "loop" else "/etc/passwd")
    with pytest.raises(StageError, match=r"odd is (a link|no file): an archive has plain files only"):
        pack(tmp_path / "folder", tmp_path / "b.tar.gz")
    assert not (tmp_path / "b.tar.gz").exists()


LIBRARIES = (
    "json",
    "numpy",
    "yaml",
    "pydantic",
    "onnx",
    "torch",
    "hashlib",
    "argparse",
    "typing_extensions",
    "tarfile",
)


@pytest.mark.parametrize("module", ["compress.device", "compress.report", "compress.profile"])
def test_commands_in_a_folder_of_programs_run_none_of_them(tmp_path, module):
    for name in LIBRARIES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})")
    arguments = {"compress.device": ["verify", "--bundle", "."]}.get(module, ["a.onnx"])
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_look_for_memory_imports_nothing_from_the_working_folder(tmp_path):
    (tmp_path / "numpy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    script = "import sys; sys.path.pop(0); from compress.support.command import require_memory_for; "
    script += "import resource; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)); require_memory_for('numpy')"
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PACKAGE)}, check=True
    )
    assert not (tmp_path / "ran").exists()


ODD = st.sampled_from(
    [
        *(
            None,
            True,
            -1,
            0,
            1,
            2**53,
            10**18,
            10**30,
            -1.5,
            1e308,
            float("nan"),
            float("inf"),
            "",
            "NaN",
            "1",
            "\ud800",
        ),
        *("../x", "/dev/zero", "a\nb\x1b[2J", "x" * 5000, [], [None], {}, {"a": 1}, [0] * 2000, [[[[]]]]),
    ]
)


def places(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(document, draw) -> bytes:
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(document))))
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.integers(0, 3)) == 0:
            del holder[path[-1]]
        else:
            holder[path[-1]] = draw(ODD)
        if not list(places(document)):
            break
    text = json.dumps(document)
    if draw(st.integers(0, 5)) == 0:
        text = draw(
            st.sampled_from(["[" * 70 + text, text[:-1], text + text, text[:-1] + ', "files": []}', "9" * 5000])
        )
    return text.encode()


def try_manifest(made, folder, data):
    content = changed(json.loads((made / "manifest.json").read_text()), data.draw)
    (folder / "manifest.json").write_bytes(content)
    try:
        assert read_bundle(folder).manifest.files
    except CompressError as error:
        assert "\n" not in str(error)  # noqa: PT017  either is right


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_manifest_is_read_or_one_line(made, bundle, data):
    try_manifest(made, bundle, data)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_many_manifests_are_read_or_one_line(made, bundle, data):
    try_manifest(made, bundle, data)


def result(bundle):
    times = {"min_ms": 0.9, "low_ms": 1.0, "median_ms": 1.0, "high_ms": 1.1, "p90_ms": 1.2, "p99_ms": 1.3}
    latency = {**times, "runs": 100, "warmup": 10, "settled": True, "throughput_per_s": 900.0}
    row = {"stage": "net", "precision": "fp32", "threads": 4, "batch": 1, "problem": None, "latency": latency}
    row |= {"golden": {"passed": True, "sqnr_db": 60.0}, "mean_watts": {"all": 3.2}, "before": {"celsius": 50.0}}
    device = {"model": "Pi 4", "architecture": "aarch64", "cores": 4, "system": "Linux", "python": "3.11"}
    head = {"schema_version": 1, "manifest_sha256": bundle.digest, "target": "raspberry_pi_4", "started": "now"}
    return {**head, "device": device, "results": [row], "finished": True}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_result_is_read_within_its_bounds_or_one_line(made, data):
    bundle = read_bundle(made)
    content = changed(result(bundle), data.draw)
    try:
        read = read_result(content, bundle, "pi")
    except CompressError as error:
        assert "\n" not in str(error)  # noqa: PT017  either is right
        return
    for row in read.results:
        assert row.latency is None or 0 < row.latency.median_ms <= 1e9
        assert row.threads <= 2**53
        assert row.batch >= 1
