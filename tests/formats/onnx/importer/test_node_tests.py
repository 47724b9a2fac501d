"""The standard's own node tests: every known operator is right, or refused by name."""

from __future__ import annotations

import sys

import pytest
from doubles import ROOT

sys.path.append(str(ROOT / "scripts"))

from honesty_import import RIGHT, forms, judge

REFUSED = {
    "test_constantofshape_float_ones",  # its only operand is a size, which comes out of nowhere
    "test_dequantizelinear",  # integers that are the input, or the output
    "test_quantizelinear",
    "test_range_bfloat16_type_positive_delta",
}


def faults(verdicts):
    return [verdict for verdict in verdicts if verdict.outcome in ("wrong", "crashed")]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the tests' own NumPy references divide by zero on purpose
def test_one_of_each_operator():
    verdicts = [judge(form) for form in forms(one_of_each=True)]
    assert not faults(verdicts)
    right = {verdict.name.split()[0] for verdict in verdicts if verdict.outcome == "right"}
    refused = {verdict.name.split()[0] for verdict in verdicts} - right
    assert len(right) >= 100
    assert refused <= REFUSED


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_of_them():
    verdicts = [judge(form) for form in forms()]
    assert not faults(verdicts)
    assert sum(verdict.outcome == "right" for verdict in verdicts) >= RIGHT
