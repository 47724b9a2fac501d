"""A sensitivity scan as table and CSV."""

from __future__ import annotations

import math

from compress.quantization.scan_report import scan_csv, scan_table
from compress.quantization.sensitivity import LayerSensitivity

ROWS = (
    LayerSensitivity("layer<1>.conv", 31.26, 0.0125, 2048, 1_500_000),
    LayerSensitivity("head", math.inf, 0.0, 100, 640),
    LayerSensitivity("stem", -2.0, 0.5, 512, 1000),
)


def test_table_has_the_most_sensitive_layer_first():
    heading, *lines = scan_table(ROWS)
    assert heading.split("  ")[0] == "only this layer in INT8"
    assert lines[0].split() == ["stem", "-2.0", "dB", "50.0%", "0.5", "KiB", "1,000"]
    assert [line.split()[0] for line in lines] == ["stem", "layer<1>.conv", "head"]
    assert "exact" in lines[2]


def test_csv_keeps_the_order_of_execution():
    lines = scan_csv(ROWS).splitlines()
    assert lines[0] == "layer,sqnr_db,top1_changed,weight_bytes,macs"
    assert lines[1] == "layer<1>.conv,31.2600,0.012500,2048,1500000"
    assert lines[2].startswith("head,inf,")
