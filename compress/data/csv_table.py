"""A CSV of image paths and integer labels."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

from compress.core.errors import DataError, StageError, nearest
from compress.data.configs import MOST_CLASSES, CsvData
from compress.data.source import FileSource, distinct
from compress.support.files import inside
from compress.support.reading import is_file, is_folder, open_regular

__all__ = ["read_csv"]

_LARGEST_TABLE = 256 << 20
"""Bytes of a table: of the 1.3 million images of ImageNet it has 50 MB."""


def read_csv(config: CsvData) -> tuple[FileSource, FileSource | None]:
    """One sample per row of `config.file` and of the test table, if the user named one; a repeated file counts once."""
    paths, labels = _read_table(config, config.file, "data.file")
    if config.test is None:
        return distinct(paths, labels, _classes(config, labels)), None
    test_paths, test_labels = _read_table(config, config.test, "data.test")
    classes = _classes(config, [*labels, *test_labels])
    return distinct(paths, labels, classes), distinct(test_paths, test_labels, classes)


def _classes(config: CsvData, labels: list[int]) -> tuple[str, ...]:
    return tuple(str(index) for index in range(config.classes or max(labels) + 1))


def _read_table(config: CsvData, file: Path, option: str) -> tuple[list[Path], list[int]]:
    """Image and label of each row of `file`, which is the value of `option`."""
    root = config.root or file.parent
    if not is_folder(root):
        raise DataError(f"data.root: {root} is not a folder", fix="data.root=<folder the paths are relative to>")
    paths: list[Path] = []
    labels: list[int] = []
    for line, path, label in _rows(config, file, option):
        where = f"{file} line {line}"
        paths.append(_image(root, path, where))
        labels.append(_label(label, where, config))
    if not paths:
        raise DataError(f"{file} has a header but no rows", fix="add one row per image")
    return paths, labels


def _rows(config: CsvData, file: Path, option: str) -> Iterator[tuple[int, str, str]]:
    """Line number, path and label of each row."""
    try:
        # utf-8-sig: spreadsheets write a byte order mark that would become part of the first column's name
        with open_regular(file) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as stream:
            if os.fstat(content.fileno()).st_size > _LARGEST_TABLE:
                raise OSError(errno.EFBIG, f"it is larger than {_LARGEST_TABLE >> 20} MiB")
            reader = csv.DictReader(stream, restkey="", restval="")
            columns = reader.fieldnames or ()
            for column in ("path_column", "label_column"):
                _require_column(config, file, column, columns)
            for row in reader:
                yield reader.line_num, row[config.path_column], row[config.label_column]
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{option}: {file} cannot be read: {reason}", fix=f"{option}=<file.csv>") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{option}: {file} is not a UTF-8 CSV file: {error}", fix="save it as CSV") from error


def _require_column(config: CsvData, file: Path, option: str, columns: object) -> None:
    names = [str(name) for name in columns] if isinstance(columns, list | tuple) else []
    wanted = config.path_column if option == "path_column" else config.label_column
    if wanted not in names:
        raise DataError(f"{file} has no column {wanted!r}; {nearest(wanted, names)}", fix=f"data.{option}=<name>")


def _image(root: Path, name: str, where: str) -> Path:
    try:
        path = inside(root, name)
    except StageError as error:
        raise DataError(f"{where}: {error}", fix="use paths relative to data.root, inside it") from error
    if not is_file(path):
        raise DataError(f"{where}: image {path} does not exist", fix="restore the file or remove the row")
    return path


def _label(text: str, where: str, config: CsvData) -> int:
    try:
        label = int(text)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: label {text[:40]!r} is not an integer", fix="number the classes from 0") from error
    classes = config.classes or MOST_CLASSES
    if not 0 <= label < classes:
        shown = text.strip()[:40]  # as it was written: a number of thousands of digits is not written again
        raise DataError(
            f"{where}: label {shown} is out of range, allowed: 0 to {classes - 1}", fix="correct it or data.classes"
        )
    return label
