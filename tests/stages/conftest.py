"""Handwritten digits for the stages that train or try out on samples."""

from __future__ import annotations

import pytest
from doubles import GRAY

from compress.data import DigitsData, load_splits


@pytest.fixture(scope="session")
def splits():
    """Enough to learn from."""
    return load_splits(DigitsData(finetune=480, validation=160), GRAY)


@pytest.fixture(scope="session")
def few_splits():
    """Enough to compare by."""
    return load_splits(DigitsData(finetune=128, validation=64), GRAY)
