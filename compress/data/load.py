"""Splits that a data configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.artifact import InputSpec
from compress.data.configs import CsvData, DataConfig, DigitsData, ImageFolderData, NpzData

if TYPE_CHECKING:
    from compress.data.class_map import ClassNames
    from compress.data.source import Source
    from compress.data.splits import DataSplits

__all__ = ["load_splits"]


def load_splits(config: DataConfig, input: InputSpec, carried: ClassNames = lambda: None) -> DataSplits:
    """Read the data set that `config` names, preprocessed for a model that takes `input`.

    Args:
        carried: names of the model's outputs, where the model tells; asked only for data whose classes have no numbers.

    Images are decoded when a batch is read; one of each split is decoded here, so that a size or colour that does
    not fit is known before any work starts.

    Raises:
        DataError: the data set is missing, empty, inconsistent or too small; names the file.
    """
    from compress.data.preprocess import Preprocess
    from compress.data.splits import divide

    if isinstance(config, DigitsData):
        from compress.data.digits import held_out, read_digits

        splits = divide(config, Preprocess(input, stretch=True), read_digits(), held_out=held_out())
    else:
        train, test = _read(config, carried, input.shape[0])
        preprocess = Preprocess(input, resize=config.resize, interpolation=config.interpolation)
        splits = divide(config, preprocess, train, test)
    for split in (splits.calibration, splits.evaluation):
        next(split.batches(1))
    return splits


def _read(config: DataConfig, carried: ClassNames, channels: int) -> tuple[Source, Source | None]:
    """The training source and, where the user named one, the test source."""
    if isinstance(config, ImageFolderData):
        from compress.data.image_folder import read_image_folders

        return read_image_folders(config, carried)
    if isinstance(config, CsvData):
        from compress.data.csv_table import read_csv

        return read_csv(config)
    if isinstance(config, NpzData):
        from compress.data.npz import read_npz

        return read_npz(config, channels)
    from compress.data.torchvision_sets import read_torchvision

    assert not isinstance(config, DigitsData)
    return read_torchvision(config, carried)
