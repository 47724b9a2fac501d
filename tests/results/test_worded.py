"""Reports of before caveats were typed keep their marks."""

from __future__ import annotations

import json

from report_rows import row, run_report

from compress.core.measurement import Caveat, CaveatKind
from compress.measure.comparable import label
from compress.results.report import Report

ROWS = (
    row("emulated", caveats={"latency": Caveat(CaveatKind.EMULATED, "Q/DQ around float32")}),
    row("doubtful", caveats={"accuracy": Caveat(CaveatKind.UNTRUSTED, "no VNNI")}, notes={"2:4": "3 of 4 layers"}),
    row("absent", latency=None, caveats={"latency": Caveat(CaveatKind.MISSING, "emulated: a reason, not a kind")}),
    row("plain", notes={"graph": "12 nodes", "latency": "a remark"}),
)


def without_caveats(report):
    document = json.loads(report.to_json())
    for measurement in document["measurements"]:
        del measurement["caveats"]
    return json.dumps(document).encode()


def test_an_older_report_is_read_with_the_caveats_that_its_notes_put_in_words():
    report = run_report(ROWS)
    assert Report.from_json(without_caveats(report)) == report


def test_a_newer_report_is_read_as_it_is():
    worded = run_report((row("plain", notes={"latency": "emulated: in words only"}),))
    (read,) = Report.from_json(worded.to_json()).measurements
    assert label(read, "latency") is None
    assert dict(read.caveats) == {}
