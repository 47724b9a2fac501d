"""`report.md`: a table GitHub shows as one, whatever is written in it."""

from __future__ import annotations

import re
from dataclasses import replace

from page_rows import large_report
from report_rows import run_report, run_rows

from compress.report.markdown import comparison_markdown, run_markdown

CELL = re.compile(r"(?<!\\)\|")


def tables(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [len(CELL.split(line)) - 2 for line in lines]


def test_stages_words_and_notes():
    text = run_markdown(run_report()).decode()
    lines = text.splitlines()
    assert lines[0] == "### Raspberry Pi 4: compression report"
    assert "| to\\_onnx<br>1.5 s | onnx int8<br>onnxruntime 1.31.0 | 322.3 KiB<br>976.6 KiB | 0.0 |" in text
    assert "9.00 (9.18) *emulated*" in text
    assert "* **to\\_onnx**: 3.3x smaller than the source" in text
    assert "* **macs**: shape unknown (to\\_onnx)" in text
    assert set(tables(text)) == {8}
    assert "| :-- | :-- | --: |" in text


def test_drift_devices_and_estimates():
    text = run_markdown(large_report(3)).decode()
    for part in (
        "**Drift from the INT8 graph",
        "| 1.70 |",
        "**Measured on the device**",
        "*outputs differ*",
        "estimate 1.10",
    ):
        assert part in text


def test_names_from_strangers_stay_in_their_cell():
    name = "a|b\n<img src=x>`*_@team_ [x](y) \\"
    rows = [replace(row, stage=name, feed=None, runtime=name) for row in run_rows()]
    text = run_markdown(run_report(tuple(rows), target_title=name)).decode()
    assert set(tables(text)) == {8}
    assert "<img" not in text
    assert "@team" not in text
    assert text.splitlines()[0] == (r"### a\|b &lt;img src=x&gt;\`\*\_&#64;team\_ \[x\](y) \\: compression report")


def test_comparison_lists_what_failed():
    text = comparison_markdown([run_report(), run_report()], [("target=jetson_nano", "no INT8 | there")]).decode()
    assert text.startswith("### 2 runs: what each one delivers")
    assert "* **target=jetson\\_nano**: no INT8 \\| there" in text
    assert tables(text)[0] == 8
