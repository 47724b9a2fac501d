"""Sizes that a data set declares: numbers, shapes and pixels that would take gigabytes are refused unread."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from compress.core.artifact import InputSpec
from compress.core.errors import DataError
from compress.data import DataConfig, load_splits
from compress.models.configs import InputConfig, TorchvisionModel

CONFIG = TypeAdapter(DataConfig)
SMALL = InputSpec((3, 8, 8), "rgb", (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(autouse=True)
def _little_memory():
    """What takes gigabytes fails here, and does not take the machine's."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def load(**options):
    return load_splits(CONFIG.validate_python({"calibration": 2, "validation": 1, **options}), SMALL)


def table(folder, label):
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    path = folder / "table.csv"
    path.write_text(
        "path,label\n" + "\n".join(f"{number}.png,{number % 3}" for number in range(7)) + f"\n7.png,{label}"
    )
    return path


@pytest.mark.parametrize("label", ["1000000000", "1048576", str(2**63), "-1", "9" * 4000, "9" * 5000])
def test_labels_of_a_table_that_no_model_has(tmp_path, label):
    with pytest.raises(
        DataError, match=r"line 9: label .{1,50} is (out of range, allowed: 0 to 1048575|not an integer)"
    ):
        load(kind="csv", file=table(tmp_path, label))


@pytest.mark.parametrize("kind", ["csv", "npz"])
@pytest.mark.parametrize("classes", [10**9, 2**20 + 1, 0, -1])
def test_numbers_of_classes_that_no_model_has(kind, classes):
    with pytest.raises(ValidationError, match="classes"):
        CONFIG.validate_python({"kind": kind, "file": "x", "classes": classes})


def arrays(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def stored(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text, content=b""):
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + content


IMAGES = stored(np.zeros((12, 8, 8, 3), np.uint8))
LABELS = stored(np.arange(12) % 3)


def test_labels_of_an_archive_that_no_model_has(tmp_path):
    labels = stored(np.asarray([*range(11), 10**9]))
    with pytest.raises(DataError, match="sample 11: label 1000000000 is out of range, allowed: 0 to 1048575"):
        load(kind="npz", file=arrays(tmp_path / "a.npz", {"images.npy": IMAGES, "labels.npy": labels}))


SHAPES = {
    "large": ("|u1", "(1000000000000, 8, 8, 3)"),
    "small": ("|u1", "(11, 8, 8, 3)"),
    "negative": ("|u1", "(-12, 8, -8, 3)"),
    "overflowing": ("|u1", "(9223372036854775807, 9223372036854775807)"),
    "type": ("<f8", "(12, 8, 8, 3)"),
    "text": ("<U1000000000", "(12,)"),
    "objects": ("|O", "(12,)"),
    "nested": ("|u1", "(" * 3000),
    "unfinished": ("|u1", "(12,"),
    "digits": ("|u1", f"({'9' * 5000},)"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_arrays_are_as_large_as_they_say(tmp_path, kind):
    dtype, shape = SHAPES[kind]
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    members = {"images.npy": header(text, bytes(12 * 8 * 8 * 3)), "labels.npy": LABELS}
    with pytest.raises(DataError, match=r"is not a readable \.npz archive") as caught:
        load(kind="npz", file=arrays(tmp_path / "a.npz", members))
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", LABELS)
        with archive.open("images.npy", "w") as member:
            text = "{'descr': '|u1', 'fortran_order': False, 'shape': (1441792, 8, 8, 3), }"
            member.write(header(text))
            for _ in range(264):
                member.write(bytes(1 << 20))
    with pytest.raises(DataError, match="says that they unpack to"):
        load(kind="npz", file=path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(tmp_path, order):
    images = np.asarray(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)), np.uint8, order=order)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.arange(12) % 3)
    splits = load(kind="npz", file=tmp_path / "a.npz")
    expected = images.transpose(0, 3, 1, 2)[list(splits.evaluation.indices)] / np.float32(255)
    np.testing.assert_allclose(np.concatenate([batch.images for batch in splits.evaluation.batches(4)]), expected)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_narrow_picture_is_not_scaled_to_gigabytes(tmp_path, size):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("L", size, number).save(tmp_path / name / f"{number}.png")
    with pytest.raises(DataError, match=r"pixels and would be .*, more than 89 million"):
        load(kind="image_folder", train=tmp_path, resize=8000)


def test_options_that_would_take_gigabytes():
    with pytest.raises(ValidationError, match="less than or equal to 16384"):
        CONFIG.validate_python({"kind": "image_folder", "train": "x", "resize": 10**6})
    with pytest.raises(ValidationError, match="has more than 67,108,864 values"):
        InputConfig(shape=(3, 100_000, 100_000))
    with pytest.raises(ValidationError, match="less than or equal to 131072"):
        TorchvisionModel(kind="torchvision", name="resnet18", num_classes=10**9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["|u1", "<f4", ">f2", "<i8", "|b1", "<U9", "|V3", "<M8[D]", "x", "|O", "<f4,<f4"]),
    st.lists(st.integers(-3, 2**40), max_size=5),
    st.binary(max_size=80),
    st.sampled_from(["images.npy", "labels.npy"]),
)
def test_any_header_is_read_or_one_line(tmp_path, dtype, shape, content, name):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    members = {"images.npy": IMAGES, "labels.npy": LABELS, name: header(text, content)}
    with pytest.raises(DataError) as caught:
        load(kind="npz", file=arrays(tmp_path / "a.npz", members))
    assert "\n" not in str(caught.value)
