"""Output of the model that each class of a data set is: by a table, by name, or not known."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.core.errors import ConfigError, DataError, nearest
from compress.data.configs import MOST_CLASSES, NamedClasses
from compress.support.plain_json import parse_json
from compress.support.plain_yaml import parse_yaml
from compress.support.reading import read_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ClassNames", "Numbering", "number_classes"]

ClassNames = Callable[[], tuple[str, ...] | None]
"""Gives the names of the model's outputs, in order, where the model carries them."""

_LARGEST_FILE = 16 << 20

_SHAPES = "a JSON, YAML or CSV table of class folder to output number (or to the model's name of it)"


@dataclass(frozen=True)
class Numbering:
    """Outputs of the model by class of the data set.

    Attributes:
        outputs: output number of each class, in the data set's order.
        classes: name of every output up to the highest that is known.
    """

    outputs: tuple[int, ...]
    classes: tuple[str, ...]

    def __call__(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in the data set's list of classes to output numbers."""
        return np.asarray(self.outputs, dtype=np.int64)[labels]


def number_classes(found: tuple[str, ...], config: NamedClasses, carried: ClassNames) -> Numbering | None:
    """Number the classes `found` in a data set as the model's outputs.

    `config.class_map` decides; without it the names in `config.class_names`, of which all must fit; without those the
    names that the model carries, if all fit. None where nothing says it, and only the place in the list is left.

    Raises:
        DataError: a file cannot be read, or lacks or repeats a class.
    """
    if config.class_map is not None:
        return _by_table(found, config, carried)
    if config.class_names is not None:
        names = _read_names(config.class_names)
        return Numbering(tuple(_output(name, names, f"data.class_names={config.class_names}") for name in found), names)
    names = carried() or ()
    numbers = {_folded(name): number for number, name in enumerate(names)}
    if len(numbers) < len(names) or not all(_folded(name) in numbers for name in found):
        return None
    return Numbering(tuple(numbers[_folded(name)] for name in found), names)


def _by_table(found: tuple[str, ...], config: NamedClasses, carried: ClassNames) -> Numbering:
    assert config.class_map is not None
    where = f"data.class_map={config.class_map}"
    table = _read_table(config.class_map)
    names = _read_names(config.class_names) if config.class_names else carried() or ()
    outputs = []
    for name in found:
        if name not in table:
            raise DataError(f"{where} has no entry {name!r}: {nearest(name, table)}", fix="add a line for each folder")
        outputs.append(_number(table[name], name, names, where))
    classes = list(names) or [str(number) for number in range(max(outputs) + 1)]
    classes += [str(number) for number in range(len(classes), max(outputs) + 1)]
    if not names:
        for name, number in zip(found, outputs, strict=True):
            classes[number] = name
    return Numbering(tuple(outputs), tuple(classes))


def _number(entry: str, folder: str, names: Sequence[str], where: str) -> int:
    if not entry.isdecimal():
        return _output(entry, names, where)
    number = int(entry) if len(entry) <= len(str(MOST_CLASSES)) else MOST_CLASSES
    if number >= MOST_CLASSES:
        raise DataError(f"{where}: {folder!r} is output {entry}, more than any model has", fix="number outputs from 0")
    return number


def _output(name: str, names: Sequence[str], where: str) -> int:
    """The output that is called `name`."""
    fitting = [number for number, one in enumerate(names) if _folded(one) == _folded(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        problem = f"{where}: {len(fitting)} classes are called {name!r}"
    elif names:
        problem = f"{where}: no class is called {name!r}; {nearest(name, names)}"
    else:
        problem = f"{where}: {name!r} is no output number, and the names of the model's outputs are not known"
    raise DataError(problem, fix=f"data.class_map=<file>, {_SHAPES}")


def _folded(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _read_names(path: Path) -> tuple[str, ...]:
    names = tuple(line.strip() for line in _text(path, "data.class_names").splitlines())
    while names and not names[-1]:
        names = names[:-1]
    if not names or not all(names) or len(names) > MOST_CLASSES:
        raise DataError(
            f"data.class_names: {path} is not a list of names", fix="write one name per line, from output 0"
        )
    return names


def _read_table(path: Path) -> dict[str, str]:
    """Entries by class, numbers as text. A list of outputs (`{"0": ["n01440764", "tench"]}`) is turned round."""
    text = _text(path, "data.class_map")
    try:
        if path.suffix.lower() == ".csv":
            return {row[0].strip(): row[1].strip() for row in csv.reader(text.splitlines()) if len(row) == 2}
        # texts: a folder 007 stays one
        content: object = parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text, "it", texts=True)
    except (ValueError, ConfigError, csv.Error) as error:
        reason = error.problem if isinstance(error, ConfigError) else " ".join(str(error).split())
        raise DataError(f"data.class_map: {path} cannot be read: {reason}", fix=f"write {_SHAPES}") from error
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"data.class_map: {path} is no table", fix=f"write {_SHAPES}")
    return dict(_entries(content, path))


def _entries(content: Mapping[object, object], path: Path) -> Iterable[tuple[str, str]]:
    numbered = all(str(key).isdecimal() for key in content)
    for key, value in content.items():
        if isinstance(value, str | int) and not isinstance(value, bool):
            turned = numbered and not str(value).isdecimal()
            yield (str(value), str(key)) if turned else (str(key), str(value))
        elif numbered and isinstance(value, list) and all(isinstance(name, str) for name in value):
            yield from ((name, str(key)) for name in value)
        else:
            raise DataError(f"data.class_map: {path}: the entry of {key!r} is no number", fix=f"write {_SHAPES}")


def _text(path: Path, option: str) -> str:
    try:
        return read_text(path, _LARGEST_FILE)
    except OSError as error:
        fix = f"{option}=<UTF-8 file, one line for each class>"
        raise DataError(f"{option}: {path} cannot be read: {error.strerror}", fix=fix) from error
