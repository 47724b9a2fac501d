"""`<folder>/<class>/<image>`: the layout of torchvision's ImageFolder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.core.errors import DataError
from compress.data.class_map import ClassNames, Numbering, number_classes
from compress.data.configs import ImageFolderData
from compress.data.source import FileSource, distinct
from compress.support.reading import is_file, is_folder

__all__ = ["read_image_folders"]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})


def read_image_folders(config: ImageFolderData, carried: ClassNames) -> tuple[FileSource, FileSource | None]:
    """The training folder and the test folder, which must have the same class folders.

    Args:
        carried: names of the model's outputs, by which the folders are numbered where no option says how.
    """
    train = _read_folder(config.train, "data.train")
    numbering = number_classes(train.classes, config, carried)
    if config.test is None:
        return _numbered(train, numbering), None
    test = _read_folder(config.test, "data.test")
    if train.classes != test.classes:
        raise DataError(
            f"the class folders of {config.train} and {config.test} differ: {_difference(train.classes, test.classes)}",
            fix="give both folders the same class folders",
        )
    return _numbered(train, numbering), _numbered(test, numbering)


def _numbered(source: FileSource, numbering: Numbering | None) -> FileSource:
    if numbering is None:
        return replace(source, by_place=True)
    return replace(source, labels=numbering(source.labels), classes=numbering.classes)


def _read_folder(folder: Path, option: str) -> FileSource:
    if not is_folder(folder):
        raise DataError(f"{option}: {folder} is not a folder", fix=f"{option}=<folder of class folders>")
    try:
        classes = tuple(sorted(entry.name for entry in folder.iterdir() if is_folder(entry) and entry.name[0] != "."))
    except OSError as error:
        raise DataError(
            f"{option}: {folder} cannot be read: {error.strerror}", fix="correct its permissions"
        ) from error
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = _images(folder / name)
        if not images:
            raise DataError(f"class folder {folder / name} holds no image", fix="add images or remove the folder")
        paths += images
        labels += [label] * len(images)
    if not paths:
        raise DataError(
            f"{option}: {folder} holds no class folders with images",
            fix="arrange it as <folder>/<class>/<image>.png",
        )
    return distinct(paths, labels, classes)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and is_file(path))


def _difference(train: tuple[str, ...], test: tuple[str, ...]) -> str:
    only_train, only_test = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    parts = [
        f"only in {where}: {_few(names)}" for where, names in (("train", only_train), ("test", only_test)) if names
    ]
    return "; ".join(parts)


def _few(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
