"""What the precision column says of an INT8 file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_rows import run_rows

from compress.core.artifact import Precision
from compress.core.measurement import IntegerShare
from compress.report.columns import precision_text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "int8"),
        (IntegerShare(0.9, 0.9), "int8"),
        (IntegerShare(0.2, 0.9), "mostly float"),
        (IntegerShare(None, 0.7), "int8"),
        (IntegerShare(None, 0.3), "mostly float"),
    ],
)
def test_a_file_that_is_mostly_float_is_not_called_int8(share, text):
    row = next(row for row in run_rows() if row.precision is Precision.INT8)
    assert precision_text(replace(row, integers=share)) == text
