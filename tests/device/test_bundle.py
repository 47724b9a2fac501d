import hashlib
import json
import os
import shutil
import tarfile
import time

import numpy as np
import pytest
from bundle_factory import edit_manifest, make_bundle

from compress.core.artifact import Precision, Scaling
from compress.core.errors import ConfigError, StageError
from compress.device.bundle import _place, _scaled
from compress.device.tolerance import tolerances
from compress.results.bundle import read_bundle
from compress.support.files import write_bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


def plain_files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_lists_every_file_with_its_checksum(made):
    document = json.loads((made / "manifest.json").read_text())
    listed = {record["path"]: record for record in document["files"]}
    own = {"README.md", "benchmark.py", "golden.npz", "net.onnx", "requirements.txt"}
    assert {name for name in listed if "/" not in name} == own
    assert {"agent/__init__.py", "agent/benchmark.py", "agent/runners/onnxruntime.py"} < set(listed)
    assert set(listed) == plain_files(made) - {"manifest.json"}
    for name, record in listed.items():
        content = (made / name).read_bytes()
        assert (record["sha256"], record["size_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))


def test_the_manifest_says_what_the_model_and_the_device_are(made):
    bundle = read_bundle(made)
    (model,) = bundle.manifest.models
    assert (model.stage, model.runtime, model.opset, model.precision) == ("net", "onnxruntime", 17, Precision.FP32)
    assert model.tolerance == {"any": {"relative_error": 1e-3}}
    assert bundle.manifest.device.architecture == "aarch64"
    assert bundle.manifest.golden.samples == 4
    assert bundle.digest == hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest()


def test_the_manifest_and_the_readme_say_how_pictures_were_scaled(tmp_path):
    """Resizing by another method costs a point of top-1; the device's programmer reads it there."""
    folder = make_bundle(tmp_path, scaling=Scaling(256, "bicubic"))
    assert read_bundle(folder).manifest.scaling == Scaling(256, "bicubic")
    readme = " ".join((folder / "README.md").read_text().split())
    assert "scaled to a short side of 256 pixels with bicubic interpolation (Pillow's), then cropped" in readme


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        (Scaling(stretch=True), "scaled to that height and width with bilinear interpolation (Pillow's)"),
        (Scaling(None, "nearest"), "cropped at the centre, not scaled"),
    ],
)
def test_a_scaling_in_words(scaling, words):
    assert _scaled(scaling) == words


def test_a_manifest_of_an_older_version_says_nothing_of_scaling(bundle):
    edit_manifest(bundle, lambda document: document.pop("scaling"))
    assert read_bundle(bundle).manifest.scaling is None


def test_requirements_are_pinned_and_need_no_torch(made):
    lines = (made / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert "Python 3.11 on aarch64" in lines[0]
    assert 'onnxruntime==1.31.1; python_version >= "3.11"' in packages
    assert all("==" in package for package in packages)
    assert not [package for package in packages if package.startswith("torch")]


def test_a_jetson_brings_its_runtime_itself(tmp_path):
    bundle = read_bundle(make_bundle(tmp_path, target="jetson_nano", opset=13))
    assert bundle.manifest.models[0].runtime == "tensorrt"
    assert "comes with the device's system" in (bundle.folder / "requirements.txt").read_text()


def test_the_same_content_gives_the_same_bytes(made, tmp_path):
    again = make_bundle(tmp_path / "elsewhere")
    for path in again.rglob("*"):
        os.utime(path, (time.time() + 5000,) * 2)
    from compress.device.archive import pack

    pack(again, tmp_path / "again.tar.gz")
    first = made.with_name("bundle.tar.gz").read_bytes()
    assert first == again.with_name("bundle.tar.gz").read_bytes() == (tmp_path / "again.tar.gz").read_bytes()


def test_the_archive_holds_the_folder(made, tmp_path):
    with tarfile.open(made.with_name("bundle.tar.gz")) as tar:
        members = tar.getmembers()
        tar.extractall(tmp_path, filter="data")
    assert {member.name for member in members} == {f"bundle/{name}" for name in plain_files(made)}
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
    assert read_bundle(tmp_path / "bundle").digest == read_bundle(made).digest


def test_a_tampered_file_is_named(bundle):
    with (bundle / "net.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ConfigError, match=r"net\.onnx .* is not the file its manifest names"):
        read_bundle(bundle)


def test_a_missing_file_is_named(bundle):
    (bundle / "golden.npz").unlink()
    with pytest.raises(ConfigError, match=r"golden\.npz is missing"):
        read_bundle(bundle)


@pytest.mark.parametrize("name", ["../net.onnx", "/etc/passwd", "a/../../net.onnx"])
@pytest.mark.parametrize("place", ["files", "models", "golden"])
def test_paths_that_leave_the_bundle_are_refused(bundle, name, place):
    def change(document):
        record = document["golden"] if place == "golden" else document[place][0]
        record["path"] = name

    edit_manifest(bundle, change)
    with pytest.raises(ConfigError, match="leaves the folder"):
        read_bundle(bundle)


def test_a_model_without_checksum_is_refused(bundle):
    def drop(document):
        document["files"] = [record for record in document["files"] if record["path"] != "net.onnx"]

    edit_manifest(bundle, drop)
    with pytest.raises(ConfigError, match=r"no checksum for 'net\.onnx'"):
        read_bundle(bundle)


def test_a_folder_without_bundle_says_what_to_give(tmp_path):
    with pytest.raises(ConfigError, match=r"no bundle in .* fix: give the folder that holds manifest\.json"):
        read_bundle(tmp_path)


def test_int8_may_differ_by_three_steps_in_its_own_runtime():
    golden = np.array([[-1.0, 4.1]], np.float32)
    limits = tolerances(Precision.INT8, "onnxruntime", golden, exact=True)
    assert limits["onnxruntime"]["abs_error"] == pytest.approx(3 * 5.1 / 255)
    assert limits["any"] == {"sqnr_db": 15.0}


def test_outputs_of_a_saturating_host_prove_little():
    golden = np.array([[-1.0, 4.1]], np.float32)
    assert tolerances(Precision.INT8, "onnxruntime", golden, exact=False) == {"any": {"sqnr_db": 15.0}}


def test_a_file_of_a_bundle_never_takes_the_place_of_another(tmp_path):
    for folder in ("one", "two"):
        write_bytes(tmp_path / folder / "to_onnx.onnx", folder.encode())
    (tmp_path / "bundle").mkdir()
    _place(tmp_path / "one" / "to_onnx.onnx", tmp_path / "bundle" / "to_onnx.onnx")
    with pytest.raises(StageError, match=r"two files of this run are called to_onnx\.onnx"):
        _place(tmp_path / "two" / "to_onnx.onnx", tmp_path / "bundle" / "to_onnx.onnx")
    assert (tmp_path / "bundle" / "to_onnx.onnx").read_bytes() == b"one"
