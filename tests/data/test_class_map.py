"""Which output a class folder is: from a table, from names, or refused where only its place in the list is left."""

from __future__ import annotations

import numpy as np
import pytest
from doubles import GRAY
from PIL import Image

from compress.core.errors import DataError
from compress.data import load_splits
from compress.data.class_map import number_classes
from compress.data.configs import ImageFolderData, NamedClasses
from compress.data.splits import require_classes

FOLDERS = ("goldfish", "n01440764", "tabby_cat")
NAMES = ("tench", "Goldfish", "shark", "tabby cat", "crane", "crane")


def none():
    return None


def numbered(found=FOLDERS, carried=none, **options):
    return number_classes(found, NamedClasses(**options), carried)


def written(tmp_path, name: str, text: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", '{"goldfish": 1, "n01440764": 0, "tabby_cat": 281, "unused": 7}'),
        ("map.yaml", "goldfish: 1\nn01440764: 0\ntabby_cat: 281\n"),
        ("map.csv", "folder,output\ngoldfish,1\nn01440764, 0\ntabby_cat,281\n"),
        (
            "keras.json",
            '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "281": ["n02123045", "tabby_cat"]}',
        ),
        ("id2label.json", '{"0": "n01440764", "1": "goldfish", "281": "tabby_cat"}'),
    ],
)
def test_a_table_numbers_the_folders(tmp_path, name, text):
    numbering = numbered(class_map=written(tmp_path, name, text))
    assert numbering.outputs == (1, 0, 281)
    assert numbering(np.array([2, 0, 0, 1])).tolist() == [281, 1, 1, 0]
    assert len(numbering.classes) == 282
    assert (numbering.classes[1], numbering.classes[2], numbering.classes[281]) == ("goldfish", "2", "tabby_cat")


def test_a_table_may_give_the_models_names(tmp_path):
    table = written(tmp_path, "map.yaml", "n01440764: tench\ngoldfish: GOLDFISH\ntabby_cat: 3\n")
    assert numbered(class_map=table, carried=lambda: NAMES).outputs == (1, 0, 3)
    names = written(tmp_path, "names.txt", "\n".join(NAMES) + "\n")
    assert numbered(class_map=table, class_names=names).classes == NAMES
    with pytest.raises(
        DataError, match=r"'GOLDFISH' is no output number, and the names of the model's outputs are not"
    ):
        numbered(class_map=table)


def test_numbers_with_leading_zeros_stay_folders(tmp_path):
    table = written(tmp_path, "map.yaml", "007: 2\n010: 1\n")
    assert numbered(("007", "010"), class_map=table).outputs == (2, 1)


def test_names_from_a_file_must_all_fit(tmp_path):
    names = written(tmp_path, "names.txt", "\n".join(NAMES))
    numbering = numbered(("goldfish", "tabby-cat"), class_names=names)
    assert (numbering.outputs, numbering.classes) == ((1, 3), NAMES)
    with pytest.raises(DataError, match=r"class_names=.*: no class is called 'goldfsh'; did you mean 'Goldfish'"):
        numbered(("goldfsh",), class_names=names)
    with pytest.raises(DataError, match=r"2 classes are called 'crane' \| fix: data.class_map="):
        numbered(("crane",), class_names=names)


def test_names_the_model_carries_are_used_where_all_fit():
    assert numbered(("Tench", "shark"), carried=lambda: NAMES[:4]).outputs == (0, 2)
    assert numbered(("shark", "whale"), carried=lambda: NAMES[:4]) is None
    assert numbered(("shark",), carried=lambda: NAMES) is None  # two are called crane
    assert numbered(("shark",)) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("map.json", "{", "cannot be read"),
        ("map.json", "[1]", "is no table"),
        ("map.json", "[" * 100_000, "cannot be read"),
        ("map.yaml", "goldfish: [1]", "the entry of 'goldfish' is no number"),
        ("map.json", '{"goldfish": true}', "the entry of 'goldfish' is no number"),
        ("map.yaml", "goldfis: 1", r"has no entry 'goldfish': did you mean 'goldfis'"),
        ("map.yaml", "goldfish: -1", "'-1' is no output number"),
        ("map.yaml", "goldfish: 99999999999999999999", "is output 99999999999999999999, more than any model has"),
        ("map.yaml", "a: &a !!python/object/apply:os.getcwd []", "no number|cannot be read"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message) as caught:
        numbered(("goldfish",), class_map=written(tmp_path, name, text))
    assert "\n" not in str(caught.value)


def test_unreadable_files_name_their_option(tmp_path):
    (tmp_path / "latin.csv").write_bytes("caf\xe9,1".encode("latin-1"))
    with pytest.raises(DataError, match=r"data.class_map: .*absent.csv cannot be read.*fix: data.class_map="):
        numbered(class_map=tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"latin\.csv cannot be read: it is not UTF-8"):
        numbered(class_map=tmp_path / "latin.csv")
    with pytest.raises(DataError, match=r"data.class_names: .* is not a list of names"):
        numbered(class_names=written(tmp_path, "names.txt", "a\n\nb\n"))


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("L", (8, 8), 40 * label + index).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


def splits(folder, carried=none, **options):
    config = ImageFolderData(kind="image_folder", train=folder, calibration=2, validation=1, **options)
    return load_splits(config, GRAY, carried)


def test_fewer_folders_than_outputs_are_refused_without_a_map(folder):
    require_classes(splits(folder), 2)
    with pytest.raises(
        DataError,
        match=r"2 named classes and the model 1000 outputs: which output is 'cat' is not known"
        r" \| fix: data.class_map=.*data.class_names=",
    ):
        require_classes(splits(folder), 1000)


def test_folders_are_numbered_by_name_in_every_split(folder):
    names = ("bird", "dog", "cat")
    by_name = splits(folder, lambda: names)
    require_classes(by_name, 1000)
    assert by_name.classes == names
    for split in (by_name.calibration, by_name.finetune, by_name.evaluation):
        batch = next(split.batches(9))
        for index, label in zip(split.indices, batch.labels, strict=True):
            assert names[label] == split.source.paths[index].parent.name


def test_names_decide_where_the_order_of_folders_is_another(folder):
    labels = next(splits(folder, lambda: ("dog", "cat")).finetune.batches(9)).labels
    places = next(splits(folder).finetune.batches(9)).labels
    assert labels.tolist() == (1 - places).tolist()


def test_the_digest_follows_the_map(folder, tmp_path):
    table = written(tmp_path, "map.json", '{"cat": 7, "dog": 3}')
    assert splits(folder, class_map=table).calibration.digest() != splits(folder).calibration.digest()
