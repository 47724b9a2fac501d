"""The embedded data set: real handwriting that comes with scikit-learn, so nothing is downloaded.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, CC BY 4.0.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from compress.core.errors import DataError
from compress.data.source import ArraySource

__all__ = ["held_out", "read_digits"]

_SAMPLES = 1797
_HELD_OUT = 360
_HELD_OUT_SEED = 20_240_501
"""Arbitrary and fixed: the embedded model must never train on a held-out digit, whatever the user's seed."""


def read_digits() -> ArraySource:
    """All 1797 digits, uint8 `[1797, 8, 8, 1]`, in the order of the file."""
    table = np.loadtxt(_file(), delimiter=",", dtype=np.float64)
    grey_levels = table[:, :-1].reshape(-1, 8, 8)  # 0 to 16: counts of set pixels in 4x4 blocks of the scan
    images = np.round(grey_levels * (255 / 16)).astype(np.uint8)[..., None]
    return ArraySource(tuple(str(digit) for digit in range(10)), images, table[:, -1].astype(np.int64), "digits")


def held_out() -> tuple[int, ...]:
    """Indices of the evaluation digits: one fifth, the same for every seed."""
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(_SAMPLES)
    return tuple(int(index) for index in order[:_HELD_OUT])


def _file() -> Path:
    """The table inside scikit-learn, located without importing it: that takes 1.5 s, reading the table 0.1 s."""
    package = find_spec("sklearn")
    if package is None or package.submodule_search_locations is None:
        raise DataError("data=digits needs scikit-learn, which is not installed", fix="pip install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise DataError(f"scikit-learn's digits are not at {path}", fix="pip install --force-reinstall scikit-learn")
    return path
