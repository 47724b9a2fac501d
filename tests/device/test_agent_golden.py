"""The golden file as a stranger packs it: headers are held against the manifest before anything is allocated."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile

import numpy as np
import pytest
from bundle_factory import QUICK, edit_manifest, images, make_bundle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.device.agent.benchmark import main
from compress.device.agent.golden_file import read_array, read_golden, read_header, require_golden
from compress.device.agent.values import Problem


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def written(header: str, data: bytes = b"", version: int = 1) -> bytes:
    """An `.npy` file with this header, whatever it says."""
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def header(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


def problem(bundle, capsys, **members: bytes) -> str:
    """What `benchmark.py` says of a golden file with these members."""
    with zipfile.ZipFile(bundle / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    edit_manifest(bundle, lambda document: None)
    code = main(["--bundle", str(bundle), *QUICK])
    out, error = capsys.readouterr()
    assert (code, out, error.count("\n")) == (2, "", 1), (out, error)
    return error


LOGITS = npy(np.zeros((4, 4), np.float32))
INPUTS = npy(images())


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (npy(np.zeros((3, 4), np.float32)), "'net' is of shape (3, 4), for 4 inputs"),
        (npy(np.zeros((4, 0), np.float32)), "'net' is of shape (4, 0), for 4 inputs"),
        (npy(np.zeros(4, np.float32)), "'net' is of shape (4,), for 4 inputs"),
        (npy(np.zeros((), np.float32)), "'net' is of shape (), for 4 inputs"),
        (npy(np.zeros((4, 4), np.float64)), "'net' is not an array of float32"),
        (npy(np.zeros((4, 4), np.int8)), "'net' is not an array of float32"),
        (npy(np.zeros((4, 4), ">f4")), "'net' is not an array of float32"),
        (npy(np.zeros(4, "f4,f4")), "'net' is not an array of float32"),
        (written(header("(4, 1000000000000)")), "'net' is of shape (4, 1000000000000) and holds"),
        (written(header("(4, -4)")), "'net' is not an array of float32"),
        (written(header("(" * 2000 + ")" * 2000)), "'net' is not an array of float32"),
        (written(header("(4, 4)", "|O")), "'net' is not an array of float32"),
        (written(header("(4, 4)") + " " * 60_000, bytes(64)), "'net' has a header of 60"),
        (written(header("(4, 4)"), bytes(64), version=2)[:8] + b"\xff\xff\xff\xff", "'net' has a header of 4294967307"),
        (written(header("(4, 4)"), bytes(60)), "'net' is of shape (4, 4) and holds"),
        (b"", "'net' is not an array"),
        (b"PK\x03\x04 something", "'net' is not an array"),
    ],
)
def test_golden_outputs_that_are_none_are_one_line(bundle, capsys, logits, words):
    assert words in problem(bundle, capsys, inputs=INPUTS, net=logits)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (npy(np.zeros((4, 3, 8, 9), np.float32)), "'inputs' is of shape (4, 3, 8, 9), not n x 3 x 8 x 8 of net"),
        (npy(np.zeros((4, 192), np.float32)), "'inputs' is of shape (4, 192), not n x 3 x 8 x 8 of net"),
        (npy(np.zeros((0, 3, 8, 8), np.float32)), "'inputs' is of shape (0, 3, 8, 8), not n x 3 x 8 x 8 of net"),
    ],
)
def test_golden_inputs_of_another_shape_are_one_line(bundle, capsys, inputs, words):
    assert words in problem(bundle, capsys, inputs=inputs, net=LOGITS)


def test_a_missing_array_is_named(bundle, capsys):
    assert "golden.npz cannot be used: it has no array 'net'" in problem(bundle, capsys, inputs=INPUTS)
    assert "golden.npz cannot be used: it has no array 'inputs'" in problem(bundle, capsys, net=LOGITS)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_one_line(bundle, capsys, content):
    (bundle / "golden.npz").write_bytes(content)
    edit_manifest(bundle, lambda document: None)
    assert main(["--bundle", str(bundle), *QUICK]) == 2
    error = capsys.readouterr().err
    assert "golden.npz cannot be used: " in error
    assert error.count("\n") == 1


def test_a_damaged_member_is_one_line(bundle):
    """Its header is whole, its data is not."""
    content = bytearray((bundle / "golden.npz").read_bytes())
    with zipfile.ZipFile(bundle / "golden.npz") as archive:
        info = archive.getinfo("inputs.npy")
    at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    content[at : at + 40] = bytes(40)
    (bundle / "golden.npz").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    with pytest.raises(Problem, match=r"golden\.npz cannot be read: "):
        read_golden(str(bundle), manifest, manifest["models"][0])


def test_no_other_member_stands_in_for_an_array(bundle):
    """numpy.load prefers a member called `net` to `net.npy`: what is checked is what is read."""
    with zipfile.ZipFile(bundle / "golden.npz", "w") as archive:
        archive.writestr("inputs.npy", INPUTS)
        archive.writestr("net.npy", LOGITS)
        archive.writestr("net", npy(np.ones((4, 4), np.float32)))
    manifest = json.loads((bundle / "manifest.json").read_text())
    require_golden(str(bundle), manifest, manifest["models"])
    assert not read_golden(str(bundle), manifest, manifest["models"][0])[1].any()


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=5), elements=st.floats(-9, 9, width=32)), st.booleans()
)
def test_law_arrays_are_read_as_numpy_reads_them(array, transposed):
    array = np.asfortranarray(array) if transposed else array
    stream = io.BytesIO()
    np.savez_compressed(stream, a=array)
    with zipfile.ZipFile(stream) as archive:
        assert read_header(archive, "a").shape == array.shape
        found = read_array(archive, "a")
    np.testing.assert_array_equal(found, array)
    assert found.flags["C_CONTIGUOUS"]
    assert found.flags["WRITEABLE"]
