"""Data sets the user brings: one configuration per kind, one `Splits` for the pipeline.

Importing this package reads no data and imports neither torch nor an image library; `load_splits` does.
"""

from __future__ import annotations

from compress.data.configs import (
    CsvData,
    DataConfig,
    DigitsData,
    ImageFolderData,
    NpzData,
    TorchvisionData,
)
from compress.data.load import load_splits

__all__ = [
    "CsvData",
    "DataConfig",
    "DigitsData",
    "ImageFolderData",
    "NpzData",
    "TorchvisionData",
    "load_splits",
]
