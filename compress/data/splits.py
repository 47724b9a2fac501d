"""Disjoint, seeded, lazily decoded splits over a `Source`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from compress.core.artifact import AS_STORED, Scaling
from compress.core.errors import DataError
from compress.core.stage import Batch, Split
from compress.data.configs import SplitOptions
from compress.data.decoded import Decoded
from compress.data.preprocess import Preprocess
from compress.data.source import FileSource, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DataSplits", "SampleSplit", "divide", "require_classes"]

_HELD_OUT = 0.2
"""Share of a single source that becomes the evaluation split when the user names no test set and no number."""


@dataclass(frozen=True, eq=False)
class SampleSplit:
    """Samples of a source, in a fixed order, decoded as they are read.

    Attributes:
        decoded: what is kept of them; each split has a share of its own, as training reads one over and over.
    """

    name: str
    source: Source
    indices: tuple[int, ...]
    preprocess: Preprocess
    decoded: Decoded = field(default_factory=Decoded)

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """All samples once, in order (or those at the positions `order`), at most `size` at a time; holds one batch."""
        if size < 1:
            raise ValueError(f"batch size {size} must be at least 1")
        indices = self.indices if order is None else tuple(self.indices[position] for position in order)
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            images = np.stack([self._image(index) for index in chosen])
            yield Batch(images, self.source.labels[list(chosen)])

    def digest(self) -> str:
        """Hex SHA-256 over the stored images, labels, order and preprocessing; where the files lie does not matter."""
        digest = hashlib.sha256(self.preprocess.describe().encode())
        digest.update(f"{len(self)} of {self.source.classes}".encode())
        for index in self.indices:
            digest.update(self.source.content(index))
            digest.update(int(self.source.labels[index]).to_bytes(8, "little"))
        return digest.hexdigest()

    def _image(self, index: int) -> NDArray[np.float32]:
        return self.preprocess.normalise(self.decoded.pixels(index, self._pixels))

    def _pixels(self, index: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        return self.preprocess.pixels(self.source.picture(index), self.source.name(index))


@dataclass(frozen=True)
class DataSplits:
    """The four splits of a data set.

    Attributes:
        by_place: labels are places in a list of names: the model's own numbers only if it has as many outputs.
        scaling: how every picture got the input's size.
    """

    classes: tuple[str, ...]
    calibration: Split
    finetune: Split
    validation: Split
    evaluation: Split
    seed: int
    by_place: bool = False
    scaling: Scaling = AS_STORED

    def describe(self) -> dict[str, int | str | dict[str, int | str]]:
        """Return what a report records: seed, number of classes, and samples and digest of each split."""
        splits = (self.calibration, self.finetune, self.validation, self.evaluation)
        recorded: dict[str, int | str | dict[str, int | str]] = {"seed": self.seed, "classes": len(self.classes)}
        recorded.update({split.name: {"samples": len(split), "sha256": split.digest()} for split in splits})
        return recorded


def divide(
    options: SplitOptions,
    preprocess: Preprocess,
    train: Source,
    test: Source | None = None,
    held_out: tuple[int, ...] | None = None,
) -> DataSplits:
    """Cut the sources into splits that share no sample.

    Args:
        train: source of the calibration, validation and fine-tuning splits; without images that `test` has.
        test: source of the evaluation split; None cuts it from `train`.
        held_out: samples of `train` that are the evaluation split whatever the seed.

    Raises:
        DataError: a split asks for more samples than there are, or calibration or evaluation would be empty.
    """
    if test is None and held_out is None:
        shuffled = _shuffled(range(len(train.labels)), options.seed)
        count = _single_source_evaluation(options, len(shuffled))
        evaluation, rest, origin = shuffled[:count], shuffled[count:], train
    elif test is None:
        assert held_out is not None
        chosen = frozenset(held_out)
        rest = _shuffled([index for index in range(len(train.labels)) if index not in chosen], options.seed)
        evaluation, origin = _first(held_out, options.evaluation, options.seed), train
    else:
        used = {test.identity(index) for index in range(len(test.labels))} | _copies(train, test)
        rest = _shuffled([i for i in range(len(train.labels)) if train.identity(i) not in used], options.seed)
        if not rest:  # train and test are the same folder
            return divide(options, preprocess, test)
        evaluation = _first(tuple(range(len(test.labels))), options.evaluation, options.seed)
        origin = test
    return _assemble(options, preprocess, train, rest, origin, evaluation)


def require_classes(splits: DataSplits, outputs: int) -> None:
    """Raise `DataError` when the data set has a class that the model has no output for, or none that is known."""
    if len(splits.classes) > outputs:
        raise DataError(
            f"the data set has {len(splits.classes)} classes but the model has {outputs} outputs",
            fix="choose a model trained for these classes, for example model.num_classes="
            f"{len(splits.classes)} for a torchvision model",
        )
    if splits.by_place and len(splits.classes) < outputs:
        raise DataError(
            f"the data set has {len(splits.classes)} named classes and the model {outputs} outputs: which output is "
            f"{splits.classes[0]!r} is not known",
            fix="data.class_map=<JSON, YAML or CSV of class to output number>, or data.class_names=<text file with the "
            "names of the model's outputs, one per line>",
        )


def _copies(train: Source, test: Source) -> set[str]:
    """Identities of the training files that lie in the test set under another name, byte by byte."""
    if not (isinstance(train, FileSource) and isinstance(test, FileSource)):
        return set()
    of_size: dict[int, list[int]] = {}
    for index in range(len(test.paths)):
        of_size.setdefault(test.size_bytes(index), []).append(index)
    contents: dict[int, set[bytes]] = {}
    copies = set()
    for index in range(len(train.paths)):
        size = train.size_bytes(index)
        if size not in of_size:
            continue
        if size not in contents:
            contents[size] = {test.content(one) for one in of_size[size]}
        if train.content(index) in contents[size]:
            copies.add(train.identity(index))
    return copies


def _assemble(
    options: SplitOptions,
    preprocess: Preprocess,
    train: Source,
    rest: tuple[int, ...],
    origin: Source,
    evaluation: tuple[int, ...],
) -> DataSplits:
    first, second = options.calibration, options.calibration + options.validation
    finetune = len(rest) - second if options.finetune is None else options.finetune
    _check_counts(options, available=len(rest), evaluation=len(evaluation))

    def split(name: str, source: Source, indices: tuple[int, ...]) -> SampleSplit:
        return SampleSplit(name, source, indices, preprocess)

    return DataSplits(
        classes=train.classes,
        calibration=split("calibration", train, rest[:first]),
        validation=split("validation", train, rest[first:second]),
        finetune=split("finetune", train, rest[second : second + finetune]),
        evaluation=split("evaluation", origin, evaluation),
        seed=options.seed,
        by_place=train.by_place,
        scaling=preprocess.scaling,
    )


def _check_counts(options: SplitOptions, *, available: int, evaluation: int) -> None:
    wanted = options.calibration + options.validation + (options.finetune or 0)
    if options.calibration == 0:
        raise DataError("data.calibration=0 leaves no images to calibrate with", fix="data.calibration=128")
    if evaluation == 0:
        raise DataError("the evaluation split is empty", fix="data.evaluation=<number of images>, at least 1")
    if wanted > available:
        raise DataError(
            f"the splits ask for {wanted} samples (calibration {options.calibration}, validation {options.validation}, "
            f"finetune {options.finetune or 0}) but only {available} exist besides {evaluation} for evaluation",
            fix="lower data.calibration, data.validation, data.finetune or data.evaluation",
        )


def _single_source_evaluation(options: SplitOptions, available: int) -> int:
    if options.evaluation is None and options.finetune is None:
        return max(1, int(available * _HELD_OUT)) if available else 0
    if options.evaluation is None:
        others = options.calibration + options.validation + (options.finetune or 0)
        return max(0, available - others)
    return _at_most(options.evaluation, available)


def _first(indices: tuple[int, ...], count: int | None, seed: int) -> tuple[int, ...]:
    """A seeded choice of `count` samples, all of them when None."""
    return _shuffled(indices, seed)[: _at_most(len(indices) if count is None else count, len(indices))]


def _at_most(count: int, available: int) -> int:
    if count > available:
        raise DataError(
            f"data.evaluation={count} asks for more samples than the {available} that exist",
            fix=f"data.evaluation={available} or fewer",
        )
    return count


def _shuffled(indices: range | list[int] | tuple[int, ...], seed: int) -> tuple[int, ...]:
    """The indices in a seeded order, so that the first batch of a split already mixes the classes.

    Any integer is a seed: PCG64 takes non-negative ones only, so negative seeds are folded into their own stream.
    """
    order = np.random.default_rng([abs(seed), int(seed < 0)]).permutation(len(indices))
    return tuple(indices[int(position)] for position in order)
