"""Each kind of data set: what it reads, and what it says about bad input."""

from __future__ import annotations

import csv
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from doubles import ROOT
from PIL import Image
from pydantic import TypeAdapter

from compress.config.compose import compose_tree
from compress.core.artifact import InputSpec
from compress.core.errors import DataError
from compress.data import DataConfig, NpzData, load_splits

CONFIG = TypeAdapter(DataConfig)
SMALL = InputSpec((3, 8, 8), "rgb", (0.0,) * 3, (1.0,) * 3)
FEW = {"calibration": 2, "validation": 1}
CONF = ROOT / "conf" / "data"


def load(spec: InputSpec = SMALL, **options):
    return load_splits(CONFIG.validate_python({**FEW, **options}), spec)


def every(splits):
    return (splits.calibration, splits.validation, splits.finetune, splits.evaluation)


def picture(seed: int, size=(8, 8)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(6):
            picture(label * 10 + index).save(tmp_path / "train" / name / f"{index}.png")
    return tmp_path / "train"


@pytest.fixture
def table(tmp_path):
    for index in range(8):
        picture(index).save(tmp_path / f"{index}.png")
    return write_table(tmp_path, [(f"{index}.png", index % 3) for index in range(8)])


def write_table(root: Path, rows, header=("path", "label"), encoding="utf-8") -> Path:
    path = root / "table.csv"
    with path.open("w", newline="", encoding=encoding) as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_states_exactly_the_fields(path):
    text = path.read_text()
    assert text.startswith("# ")
    needed = {"csv": ["file"], "image_folder": ["train"], "npz": ["file"], "torchvision": ["name", "root"]}
    typed = [f"data.{option}=given" for option in needed.get(path.stem, [])]
    composed = compose_tree(["target=raspberry_pi_4", f"data={path.stem}", *typed])["data"]
    assert set(CONFIG.validate_python(composed).model_dump()) == set(composed)


# image folder


def test_image_folder_takes_classes_from_folders(folder):
    splits = load(kind="image_folder", train=folder)
    assert splits.classes == ("cat", "dog")
    split = splits.calibration
    batch = next(split.batches(9))
    for image, index in zip(batch.images, split.indices, strict=True):
        stored = np.asarray(Image.open(split.source.paths[index]), dtype=np.float32) / np.float32(255)
        np.testing.assert_array_equal(image, stored.transpose(2, 0, 1))


def test_the_same_folder_twice_is_split_and_not_shared(folder):
    splits = load(kind="image_folder", train=folder, test=folder)
    used = [split.source.paths[index] for split in every(splits) for index in split.indices]
    assert len(used) == len(set(used)) == 12


def test_a_linked_image_of_the_test_set_is_not_trained_on(folder, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "link.png").symlink_to(folder / name / "0.png")
    splits = load(kind="image_folder", train=folder, test=tmp_path / "test")
    assert len(splits.evaluation) == 2
    assert len(splits.calibration) + len(splits.validation) + len(splits.finetune) == 10


def test_a_copied_image_of_the_test_set_is_not_trained_on(folder, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "renamed.png").write_bytes((folder / name / "0.png").read_bytes())
    splits = load(kind="image_folder", train=folder, test=tmp_path / "test")
    trained = [split.source.paths[i] for split in every(splits)[:3] for i in split.indices]
    assert len(trained) == 10
    assert not [path for path in trained if path.name == "0.png"]


def test_image_folder_errors(folder, tmp_path):
    with pytest.raises(DataError, match=r"data.train: .*absent is not a folder"):
        load(kind="image_folder", train=tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no class folders with images"):
        load(kind="image_folder", train=tmp_path / "empty")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    picture(0).save(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(DataError, match="only in train: dog"):
        load(kind="image_folder", train=folder, test=tmp_path / "test")
    (folder / "bird").mkdir()
    with pytest.raises(DataError, match="bird holds no image"):
        load(kind="image_folder", train=folder)


def test_corrupt_image_is_named(folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"image .*\.png cannot be decoded"):
        load(kind="image_folder", train=folder)


def test_image_smaller_than_the_input_names_the_fix(folder):
    with pytest.raises(DataError, match=r"is 8x8 pixels but the model takes 16x16 \| fix: data.resize=16"):
        load(InputSpec((3, 16, 16)), kind="image_folder", train=folder)
    load(InputSpec((3, 16, 16)), kind="image_folder", train=folder, resize=16)


# csv


def test_csv_reads_paths_and_labels(table):
    splits = load(kind="csv", file=table)
    assert splits.classes == ("0", "1", "2")
    batch = next(splits.finetune.batches(9))
    paths = [splits.finetune.source.paths[index] for index in splits.finetune.indices]
    np.testing.assert_array_equal(batch.labels, [int(path.stem) % 3 for path in paths])


def test_csv_with_a_byte_order_mark_and_quoted_names(tmp_path):
    for name in ("a, b.png", "c.png", "d.png", "e.png"):
        picture(len(name)).save(tmp_path / name)
    path = write_table(tmp_path, [(n, 0) for n in ("a, b.png", "c.png", "d.png", "e.png")], encoding="utf-8-sig")
    assert len(load(kind="csv", file=path).evaluation) == 1


def test_csv_with_a_test_table(table, tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    picture(50).save(tmp_path / "held" / "new.png")
    test = write_table(tmp_path / "held", [("copy.png", 0), ("new.png", 4)])
    splits = load(kind="csv", file=table, test=test)
    assert splits.classes == ("0", "1", "2", "3", "4")
    assert {path.parent.name for path in splits.evaluation.source.paths} == {"held"}
    assert sorted(splits.evaluation.source.labels) == [0, 4]
    trained = [split.source.paths[i].name for split in every(splits)[:3] for i in split.indices]
    assert sorted(trained) == [
        f"{index}.png" for index in range(1, 8)
    ]  # 0.png is in the test table, under another name
    with pytest.raises(DataError, match=r"data.test: .*absent.csv cannot be read.*fix: data.test="):
        load(kind="csv", file=table, test=tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"held.*table.csv line 2: label 4 is out of range"):
        load(kind="csv", file=table, test=write_table(tmp_path / "held", [("new.png", 4)]), classes=3)


def test_the_same_table_twice_is_split_and_not_shared(table):
    splits = load(kind="csv", file=table, test=table)
    used = [split.source.paths[index] for split in every(splits) for index in split.indices]
    assert len(used) == len(set(used)) == 8


def test_repeated_rows_count_once_and_contradictions_are_refused(table):
    rows = [(f"{index}.png", index % 3) for index in range(8)]
    write_table(table.parent, rows + rows)
    assert sum(len(split) for split in every(load(kind="csv", file=table))) == 8
    write_table(table.parent, [*rows, ("0.png", 1)])
    with pytest.raises(DataError, match=r"0\.png has two labels: 0 and 1"):
        load(kind="csv", file=table)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("../outside.png", 0), "leaves the folder"),
        (("/etc/passwd", 0), "leaves the folder"),
        (("absent.png", 0), r"line 3: image .*absent.png does not exist"),
        (("1.png", "cat"), "line 3: label 'cat' is not an integer"),
        (("1.png", ""), "line 3: label '' is not an integer"),
        (("1.png", "1.5"), "line 3: label '1.5' is not an integer"),
        (("1.png", -1), "line 3: label -1 is out of range"),
        (("1.png", 7), "line 3: label 7 is out of range, allowed: 0 to 2"),
    ],
)
def test_bad_rows_name_the_line(table, row, message):
    write_table(table.parent, [("0.png", 0), row])
    with pytest.raises(DataError, match=message):
        load(kind="csv", file=table, classes=3)


def test_csv_file_errors(table):
    with pytest.raises(DataError, match=r"no column 'file'; .*allowed: label, path"):
        load(kind="csv", file=table, path_column="file")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load(kind="csv", file=table.parent / "absent.csv")
    write_table(table.parent, [])
    with pytest.raises(DataError, match="has a header but no rows"):
        load(kind="csv", file=table)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not a UTF-8 CSV file"):
        load(kind="csv", file=table)


# npz


def write_npz(tmp_path: Path, images, labels, name="data.npz") -> Path:
    np.savez(tmp_path / name, images=images, labels=labels)
    return tmp_path / name


def test_npz_layouts_agree(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(9) % 3
    last = load(kind="npz", file=write_npz(tmp_path, stored, labels, "a.npz"))
    first = load(kind="npz", file=write_npz(tmp_path, stored.transpose(0, 3, 1, 2), labels, "b.npz"))
    floats = load(kind="npz", file=write_npz(tmp_path, (stored / 255).astype(np.float32), labels, "c.npz"))
    assert last.describe() == first.describe()
    expected = next(last.calibration.batches(9)).images
    np.testing.assert_allclose(next(floats.calibration.batches(9)).images, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_npz_of_planes_that_are_no_picture(tmp_path, channels):
    stored = np.random.default_rng(0).integers(0, 256, (9, 8, 8, channels), dtype=np.uint8)
    labels = np.arange(9) % 3
    spec = InputSpec((channels, 8, 8), "planes", (0.0,) * channels, (1.0,) * channels)
    floats = (stored / 255).astype(np.float32)
    for name, images in {"a": stored, "b": stored.transpose(0, 3, 1, 2), "c": floats}.items():
        file = write_npz(tmp_path, images, labels, f"{name}.npz")
        config = NpzData(kind="npz", file=file, calibration=4, validation=2, finetune=0, evaluation=2)
        split = load_splits(config, spec).calibration
        first = next(split.batches(1)).images[0].transpose(1, 2, 0)
        assert min(np.abs(first - image).max() for image in floats) < 1e-6


def test_npz_of_another_number_of_planes(tmp_path):
    four = write_npz(tmp_path, np.zeros((9, 8, 8, 4), np.uint8), np.arange(9) % 3)
    with pytest.raises(DataError, match=r"shape \(9, 8, 8, 4\) and the model takes 3 channels"):
        load(kind="npz", file=four)


def test_npz_with_a_test_archive(tmp_path):
    grey = np.zeros((9, 8, 8), np.uint8)
    train = write_npz(tmp_path, grey, np.arange(9) % 3, "train.npz")
    test = write_npz(tmp_path, grey[:4], np.arange(4), "test.npz")
    splits = load(kind="npz", file=train, test=test)
    assert len(splits.evaluation) == 4
    assert len(splits.classes) == 4


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((9, 8, 8), np.nan, np.float32), np.zeros(9, int), "sample 0: images have a value that is not finite"),
        (np.full((9, 8, 8), 2.0, np.float32), np.zeros(9, int), "sample 0: images have a value outside 0 to 1"),
        (np.zeros((9, 8, 8), np.int32), np.zeros(9, int), "images are int32"),
        (np.zeros((9, 8), np.uint8), np.zeros(9, int), r"images have the shape \(9, 8\)"),
        (np.zeros((9, 8, 8), np.uint8), np.zeros(8, int), "9 images but 8 labels"),
        (np.zeros((9, 8, 8), np.uint8), np.zeros(9), "labels are float64"),
        (np.zeros((9, 8, 8), np.uint8), np.full(9, -1), "sample 0: label -1 is out of range"),
    ],
)
def test_bad_npz(tmp_path, images, labels, message):
    with pytest.raises(DataError, match=message):
        load(kind="npz", file=write_npz(tmp_path, images, labels))


def test_npz_never_unpickles(tmp_path):
    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    np.savez(tmp_path / "evil.npz", images=np.array([Touch()]), labels=np.zeros(1, int))
    with pytest.raises(DataError, match=r"evil.npz is not a readable .npz archive"):
        load(kind="npz", file=tmp_path / "evil.npz")
    assert not (tmp_path / "executed").exists()


def test_npz_missing_and_misnamed(tmp_path):
    with pytest.raises(DataError, match=r"is not a readable \.npz archive"):
        load(kind="npz", file=tmp_path / "absent.npz")
    np.savez(tmp_path / "other.npz", image=np.zeros((1, 8, 8)), labels=np.zeros(1, int))
    with pytest.raises(DataError, match="no array 'images'; did you mean 'image'"):
        load(kind="npz", file=tmp_path / "other.npz")


# torchvision


def write_mnist(root: Path) -> None:
    """MNIST's own file format (http://yann.lecun.com/exdb/mnist), a few made-up digits."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 4)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">iiii", 0x00000803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes(index % 10 for index in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x00000801, count) + labels)


def test_torchvision_dataset_from_its_files(tmp_path):
    write_mnist(tmp_path)
    splits = load(InputSpec((1, 28, 28), "gray", (0.0,), (1.0,)), kind="torchvision", name="MNIST", root=tmp_path)
    assert [len(split) for split in every(splits)] == [2, 1, 9, 4]
    assert sorted(next(splits.evaluation.batches(9)).labels) == [0, 1, 2, 3]
    assert len(splits.classes) == 10


def test_torchvision_errors(tmp_path):
    with pytest.raises(DataError, match=r"unknown torchvision data set 'CIFAR11'; did you mean 'CIFAR10'"):
        load(kind="torchvision", name="CIFAR11", root=tmp_path)
    with pytest.raises(DataError, match=r"CIFAR10 cannot be read from .* \| fix: .*data.download=true"):
        load(kind="torchvision", name="CIFAR10", root=tmp_path)


def test_torchvision_offline(tmp_path, monkeypatch):
    from urllib.error import URLError

    from torchvision.datasets import cifar

    def offline(*_args, **_options):
        raise URLError("no network")

    monkeypatch.setattr(cifar, "download_and_extract_archive", offline)
    with pytest.raises(
        DataError, match=r"CIFAR10 could not be downloaded: .*no network.* \| fix: connect to a network"
    ):
        load(kind="torchvision", name="CIFAR10", root=tmp_path, download=True)


# real data


@pytest.mark.real_data
def test_nips_images_through_their_table(shared_data):
    splits = load(
        InputSpec((3, 224, 224)),
        kind="csv",
        file=shared_data / "images/nips2017/labels_and_attribution.csv",
        path_column="file",
        label_column="imagenet_class_0based",
        resize=256,
        classes=1000,
        calibration=128,
    )
    assert sum(len(split) for split in every(splits)) == 400
    assert next(splits.evaluation.batches(2)).images.shape == (2, 3, 224, 224)


# what a file is, is asked of its content


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_postscript_called_png_starts_no_program(folder, tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # found anew, as in a new process
    for path in folder.rglob("*.png"):
        path.write_bytes(POSTSCRIPT)
    with pytest.raises(DataError, match=r"image .*\.png cannot be decoded"):
        load(kind="image_folder", train=folder)
    assert not marker.exists()


def test_a_picture_that_would_unpack_to_gigabytes_is_refused_undecoded(folder):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    for path in folder.rglob("*.png"):
        path.write_bytes(bomb)
    with pytest.raises(DataError, match="12000 x 12000 pixels, more than 89 million"):
        load(kind="image_folder", train=folder)
